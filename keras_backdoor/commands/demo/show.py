"""The demo command: print the table and write the report and the repaired model."""

from pathlib import Path
from typing import Any

from keras_backdoor import reports
from keras_backdoor._safe.files import check_output, write_json, writing
from keras_backdoor.commands import console
from keras_backdoor.commands.demo.measure import Demonstration, measure
from keras_backdoor.commands.demo.page import page


def main(out: Path, *, force: bool = False) -> Demonstration:
    """Run the demo, print its table, and write the report, the results and the repaired model."""
    check_output(out, force=force)
    say = console.out.print
    say("Inspecting, evaluating and repairing the bundled BadNet model …")
    shown = measure()
    with writing(out, force=force) as partial:
        partial.mkdir()
        reports.write(page(shown), partial / "page")
        shown.answer.save(partial / "repaired")
        write_json(partial / "figures.json", figures(shown))
    console.print_columns("", ("", "BadNet", "repaired"), table(shown))
    say(f"\nreport         {out / 'page' / 'index.html'}", soft_wrap=True)
    say(f"repaired model {out / 'repaired' / 'model.keras'}", soft_wrap=True)
    say(f"deploy it      keras-backdoor export {out / 'repaired'} --out serving/mnist")
    return shown


def table(shown: Demonstration) -> list[tuple[str, ...]]:
    """Return the table rows (metric, before, after)."""
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
    """Return the results as a dictionary for JSON."""
    return {
        "seconds": round(shown.seconds, 1),
        "method": shown.answer.about["settings"],
        "before": shown.before.as_dict(),
        "after": shown.after.as_dict(),
    }
