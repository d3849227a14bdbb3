"""The notebooks run in order on a clean kernel and say what their committed outputs say; those are whole and small."""

import ast
import math
import re

import nbformat
import pytest
from helpers import ROOT, script
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

NAMES = [
    "01_quickstart",
    "02_wavelet_subbands",
    "03_fourier_spectra",
    "04_gaussian_masks_and_gffl",
    "05_ds2s",
    "06_what_moves",
    "07_train_your_own_pair",
]
# a training ends elsewhere on another machine, and the app where it finds a free port
VARIES = "varies"
MOST_LINES = 30
NUMBER = re.compile(r"[-+−]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
MACHINE = re.compile(rf"{re.escape(str(ROOT))}|/(?:home|root|tmp|Users|private|var)/|\.venv|site-packages")


RUN = script("notebooks")


def committed(name):
    return nbformat.read(RUN.FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows(source):
    """Whether the last statement of a cell is a value that a notebook displays, or something is printed or displayed."""
    body = ast.parse(source).body
    called = [
        n.func.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    last_is_value = isinstance(body[-1], ast.Expr) and not source.rstrip().endswith(";")
    silent = last_is_value and isinstance(body[-1].value, ast.Call) and returns_nothing(body[-1].value)
    return {"print", "display", "train"} & {*called} != set() or (last_is_value and not silent)


def returns_nothing(call):
    return isinstance(call.func, ast.Attribute) and call.func.attr in ("close", "backward", "manual_seed", "register")


def noise(notebook):
    """Errors and what went to stderr, where warnings go."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [o.get("text", o.get("evalue")) for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def faults(notebook):
    """What is wrong with a committed notebook, a line each."""
    found = [f"noise: {text}" for text in noise(notebook)]
    if notebook.metadata.get("sfkd", {}).get("sources") != RUN.digest(notebook):
        found.append("its outputs are not those of its cells: make notebooks-run")
    if set(notebook.metadata) != {"kernelspec", "language_info", "sfkd"} or set(notebook.metadata.language_info) != {
        "name"
    }:
        found.append(f"metadata of a machine: {dict(notebook.metadata)}")
    for number, cell in enumerate(code_cells(notebook), 1):
        if shows(cell.source) and not cell.outputs:
            found.append(f"cell {number} shows something and has no output")
        if cell.execution_count != number:
            found.append(f"cell {number} was executed as number {cell.execution_count}")
        if set(cell.metadata) - {"tags"}:
            found.append(f"cell {number} has metadata {dict(cell.metadata)}")
        for output in cell.outputs:
            if RUN.FIGURE in output.get("data", {}) and not {"image/png", "text/plain"} <= set(output.data):
                found.append(f"cell {number} has a figure without a picture or title")
    written = [*(c.source for c in notebook.cells), *(t for c in code_cells(notebook) for t in texts(c))]
    found += [f"path of a machine: {match.group()}" for text in written for match in MACHINE.finditer(text)]
    return found


def texts(cell):
    """What outputs say in words; of figures their titles."""
    for output in cell.outputs:
        data = output.get("data", {})
        if RUN.FIGURE in data:
            yield re.sub("<[^>]*>", " ", data[RUN.FIGURE]["layout"]["title"]["text"])
        elif output.output_type == "stream":
            yield output.text
        else:
            yield data.get("text/markdown", data.get("text/plain", ""))


def kinds(cell):
    """Mime types of outputs, without what is added when they are saved."""
    return [sorted({*o.get("data", {o.get("name"): ""})} - {"image/png", "text/plain"}) for o in cell.outputs]


def same(ours, theirs):
    """Equal words, and numbers that agree but for rounding on another machine."""
    if NUMBER.sub("#", ours).split() != NUMBER.sub("#", theirs).split():
        return False
    pairs = zip(numbers(ours), numbers(theirs), strict=True)
    return all(math.isclose(a, b, rel_tol=0.02, abs_tol=0.02) for a, b in pairs)


def numbers(text):
    return [float(n.replace(",", "").replace("−", "-").rstrip(".")) for n in NUMBER.findall(text)]


def differences(fresh, saved):
    """Cells whose outputs are other ones than the committed."""
    found = []
    for number, (ours, theirs) in enumerate(zip(code_cells(fresh), code_cells(saved), strict=True), 1):
        if kinds(ours) != kinds(theirs):
            found.append(f"cell {number} gives {kinds(ours)}, committed are {kinds(theirs)}")
        elif VARIES not in theirs.metadata.get("tags", []):
            pairs = zip(texts(ours), texts(theirs), strict=True)
            found += [f"cell {number} says {a!r}, committed is {b!r}" for a, b in pairs if not same(a, b)]
    return found


def test_there_are_seven_in_order():
    assert [path.stem for path in sorted(RUN.FOLDER.glob("*.ipynb"))] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_a_clean_kernel_and_says_what_is_committed(name, tmp_path):
    saved = committed(name)
    fresh = RUN.execute(saved, tmp_path)
    assert noise(fresh) == []
    assert differences(fresh, saved) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_whole_small_and_of_no_machine(name):
    assert faults(committed(name)) == []
    assert (RUN.FOLDER / f"{name}.ipynb").stat().st_size < RUN.MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_one_question_and_answers_it_with_a_number(name):
    cells = committed(name).cells
    assert len(re.findall(r"\*\*Question: [^*]+\?\*\*", cells[0].source)) == 1
    said = [text for cell in cells if cell.cell_type == "code" for text in texts(cell)]
    answers = [text for text in said if text.startswith("**Answer.**")]
    assert len(answers) == 1
    assert re.search(r"\d", answers[0])
    assert "## Try this" in "".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("name", NAMES)
def test_its_cells_are_short_and_define_nothing(name):
    for cell in code_cells(committed(name)):
        assert len(cell.source.splitlines()) <= MOST_LINES
        made = [
            n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda)
        ]
        assert made == [], "what is computed belongs into the library"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for cell in committed(name).cells:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", cell.source if cell.cell_type == "markdown" else ""):
            assert target.startswith("https://") or (RUN.FOLDER / target).exists(), target


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A notebook of one figure and one number, executed and pictured."""
    figure = "import sfkd_viz\nsfkd_viz.plot_gaussian_mask((8, 8))"
    cells = [new_markdown_cell("# Small"), new_code_cell(figure), new_code_cell("print(f'{1 / 3:.3f} of it')")]
    done = RUN.execute(new_notebook(cells=cells), tmp_path_factory.mktemp("small"))
    return RUN.pictured(done)


def test_a_whole_notebook_has_no_fault(small):
    assert faults(small) == []
    assert differences(small, small) == []


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (lambda cells: cells[1].update(source=cells[1].source + "  # changed"), "not those of its cells"),
        (lambda cells: cells[1].outputs[0].data.pop("image/png"), "without a picture"),
        (lambda cells: cells[2].outputs.clear(), "has no output"),
        (lambda cells: cells[2].outputs.append(new_output("stream", name="stderr", text="UserWarning")), "noise"),
        (lambda cells: cells[2].outputs.append(new_output("error", ename="E", evalue="it failed")), "noise"),
        (lambda cells: cells[2].outputs[0].update(text="/home/me/runs"), "path of a machine"),
        (lambda cells: cells[0].update(source=f"see {ROOT}"), "path of a machine"),
        (lambda cells: cells[1].metadata.update(execution={"iopub.execute_input": "2026"}), "has metadata"),
        (lambda cells: cells[2].update(execution_count=7), "as number 7"),
    ],
)
def test_a_planted_fault_is_found(small, plant, told):
    notebook = nbformat.reads(nbformat.writes(small), as_version=4)
    plant(notebook.cells)
    assert told in "\n".join(faults(notebook))


@pytest.mark.parametrize("said", ["0.433 of it\n", "0.333 of them\n", "0.333\n"])
def test_another_output_than_the_committed_is_found(small, said):
    notebook = nbformat.reads(nbformat.writes(small), as_version=4)
    notebook.cells[2].outputs[0].text = said
    assert len(differences(small, notebook)) == 1


def test_another_kind_of_output_is_found(small):
    notebook = nbformat.reads(nbformat.writes(small), as_version=4)
    notebook.cells[1].outputs.clear()
    assert "cell 1 gives" in differences(small, notebook)[0]


@pytest.mark.parametrize(("source", "told"), [("1 / 0", "ZeroDivisionError"), ("import sfkd_vis", "sfkd_vis")])
def test_a_cell_that_fails_is_told(source, told, tmp_path):
    with pytest.raises(CellExecutionError, match=told):
        RUN.execute(new_notebook(cells=[new_code_cell(source)]), tmp_path)


def test_a_warning_is_noise(tmp_path):
    cell = new_code_cell("import warnings\nwarnings.warn('old')")
    assert "old" in noise(RUN.execute(new_notebook(cells=[cell]), tmp_path))[0]


def test_without_a_browser_figures_keep_their_titles(small, monkeypatch, capsys):
    def no_browser(*_):
        raise RuntimeError("no browser was found")

    monkeypatch.setattr(RUN, "_png", no_browser)
    notebook = nbformat.reads(nbformat.writes(small), as_version=4)
    notebook.cells[1].outputs[0].data.pop("image/png")
    figure = RUN.pictured(notebook).cells[1].outputs[0].data
    assert "Gaussian mask" in figure["text/plain"]
    assert RUN.FIGURE in figure
    assert "no browser was found" in capsys.readouterr().out
