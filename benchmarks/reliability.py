"""Write the table of inputs in docs/reliability.md: `make reliability`. tests/test_inputs.py tries its words again."""

from __future__ import annotations

from pathlib import Path

from input_table import FUNCTIONS, INPUTS, outcome

from sfkd.runs import write_atomically

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"


def main() -> None:
    found = {name: tuple(outcome(name, given).word for given in INPUTS) for name in FUNCTIONS}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, words in found.items():
        groups.setdefault(words, []).append(f"`{name}`")
    lines = [
        "| input | " + " | ".join(", ".join(names) for names in groups.values()) + " |",
        "|-" * (len(groups) + 1) + "|",
    ]
    for row, given in enumerate(INPUTS):
        lines.append(f"| {given} | " + " | ".join(words[row] for words in groups) + " |")
    begin, end = "<!-- inputs -->", "<!-- end of inputs -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    write_atomically(PAGE, f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
