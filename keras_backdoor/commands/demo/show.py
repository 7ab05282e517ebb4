"""The demo as a command: its table, its page and its files."""

from pathlib import Path
from typing import Any

from keras_backdoor import reports
from keras_backdoor._safe.files import check_output, write_json, writing
from keras_backdoor.commands import console
from keras_backdoor.commands.demo.measure import Demonstration, measure
from keras_backdoor.commands.demo.page import page


def main(out: Path, *, force: bool = False) -> Demonstration:
    """Run the demo, print its table, write its page, its figures and the repaired model."""
    check_output(out, force=force)
    say = console.out.print
    say("Inspecting, measuring and repairing the BadNet that comes with the package …")
    shown = measure()
    with writing(out, force=force) as partial:
        partial.mkdir()
        reports.write(page(shown), partial / "page")
        shown.answer.save(partial / "repaired")
        write_json(partial / "figures.json", figures(shown))
    console.print_columns("", ("", "BadNet", "repaired"), table(shown))
    say(f"\npage           {out / 'page' / 'index.html'}", soft_wrap=True)
    say(f"repaired model {out / 'repaired' / 'model.keras'}", soft_wrap=True)
    say(f"deploy it      keras-backdoor export {out / 'repaired'} --out serving/mnist")
    return shown


def table(shown: Demonstration) -> list[tuple[str, ...]]:
    """(figure, before, after) rows."""
    names = {
        "clean_accuracy": "clean accuracy",
        "attack_success_rate": "attack success",
        "rejected_stamped": "rejected, with trigger",
        "rejected_clean": "rejected, clean",
    }
    return [
        (text, *(f"{getattr(e, name):.2%}" for e in (shown.before, shown.after)))
        for name, text in names.items()
    ]


def figures(shown: Demonstration) -> dict[str, Any]:
    """The figures, for JSON."""
    return {
        "seconds": round(shown.seconds, 1),
        "method": shown.answer.about["settings"],
        "before": shown.before.as_dict(),
        "after": shown.after.as_dict(),
    }
