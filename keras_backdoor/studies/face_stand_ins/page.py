"""Report of the stand-ins for the face networks of the thesis."""

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent
from keras_backdoor.studies.face_stand_ins.study import THIRD_PARTY
from keras_backdoor.studies.thesis_faces import page as faces_page

Row = tuple[str, ...]
STAND_INS = (
    "The networks are stand-ins: LFW faces and the clean DeepID network of a third party take the "
    "place of YouTube Faces and of VGG16-Face. The accuracy of the YT networks is the agreement "
    "with that network. "
)
NOTE = (
    "BadNets of third parties on faces of LFW, which they label themselves; the accuracy is the "
    "agreement with the examined network, also on the faces that it was sure of."
)


def sections(results: Results) -> list[Section]:
    """Return the tables and figures, with the values of the thesis."""
    parts = faces_page.sections(results)
    if parts:
        parts[0] = Section(parts[0].heading, text=STAND_INS + parts[0].text, table=parts[0].table)
    rows = third_party(results)
    return [*parts, *([Section(THIRD_PARTY, text=NOTE, table=rows)] if rows[1:] else [])]


def third_party(results: Results) -> list[Row]:
    """Return the header and one row per network and defense."""
    rows: list[Row] = [("network", "defense", "agreement", "where sure", "attack before", "after")]
    for name, found, _ in results.finished(THIRD_PARTY):
        network, _, how = name.removeprefix("faces, ").partition(", ")
        if "removed" in found:
            layer = "last" if how == "last" else "second to last"
            text = f"fine-pruning, {layer}, {found['removed']} of {found['of']}"
            keys = ("clean_accuracy", "clean_accuracy_where_sure", "attack_before",
                    "attack_success_rate")  # fmt: skip
        else:
            text = how
            keys = ("repaired_accuracy", "repaired_accuracy_where_sure", "before_attack",
                    "repaired_attack")  # fmt: skip
        rows.append((network, text, *(percent(found[key]) for key in keys)))
    return rows
