"""Files that somebody made to do harm: one clear error, nothing runs, and memory stays as it is."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import CONVNEXT, quietly
from messages import UserError
from pictures import Pictures
from PIL import Image
from plotly.offline import get_plotlyjs
from recipes import Recipes, Wish
from runs_root import RunsRoot
from safetensors.torch import save_file
from timm.models import load_checkpoint

import sfkd_viz
from sfkd import Backbone, WeightsError, load_run
from sfkd.config import Data, Recipe, RecipeError, load_recipe
from sfkd.data import create_dataset
from sfkd.loading import build_model
from sfkd.precompute import TeacherCache, teacher_cache
from sfkd.runs import RunError, RunFolder
from sfkd.study import load_study
from sfkd.transforms import DataError
from sfkd_viz.report import write_report

_MEMORY = 300  # MiB that a refusal may take; the bombs unfold to 4 GiB
_ZEROS = 2**32


class Trap:
    """What runs when it is unpickled: it makes a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return Path.touch, (self.sentinel,)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A file that only something that was run would make."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@contextmanager
def memory_within(mebibytes: float) -> Iterator[None]:
    """The most memory that the block has, over what there was before it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not tell the peak of a process")
    before = _peak()
    yield
    assert _peak() - before < mebibytes


def _peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


# -- payloads ---------------------------------------------------------------------------------------------------------


def pickled(sentinel: Path) -> bytes:
    return pickle.dumps(Trap(sentinel))


def saved_by_torch(sentinel: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"head.weight": torch.zeros(2), "x": Trap(sentinel)}, file)
    return file.getvalue()


def objects(sentinel: Path) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{"x": np.array([Trap(sentinel)], dtype=object)})  # type: ignore[arg-type]
    return file.getvalue()


def object_array(sentinel: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Trap(sentinel)], dtype=object))
    return file.getvalue()


def zipped_bomb(_: Path) -> bytes:
    """A megabyte or four that unfold to 4 GiB of zeros."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (_ZEROS,)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue())
    content = file.getvalue()
    start = content.index(b"x.npy") + len("x.npy")
    packed = _deflated(header.getvalue(), _ZEROS)
    sizes = struct.pack("<III", 0, len(packed), min(len(header.getvalue()) + _ZEROS, 2**32 - 2))
    local = content[:14] + sizes + content[26:start]
    central = bytearray(content[content.index(b"PK\x01\x02") :])
    central[16:28] = sizes
    end = central.index(b"PK\x05\x06")
    central[end + 16 : end + 20] = struct.pack("<I", len(local) + len(packed))
    return local + packed + bytes(central)


def gzip_bomb(head: bytes) -> bytes:
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + _deflated(head, _ZEROS) + bytes(8)


def _deflated(head: bytes, zeros: int) -> bytes:
    """`head` and so many zeros, without having them: one packed mebibyte, again and again."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = pack.compress(head) + pack.flush(zlib.Z_FULL_FLUSH)
    some = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return start + some * (zeros // 2**20) + pack.flush()


def tensors(header: bytes | dict[str, Any], size: int | None = None, content: bytes = bytes(16)) -> bytes:
    """A safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + content


def _tensor(*offsets: int, shape: tuple[Any, ...] = (2,), kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": offsets}


CODE = {
    "pickle": pickled,
    "torch.save": saved_by_torch,
    "npz of objects": objects,
    "npy of objects": object_array,
    "zip bomb": zipped_bomb,
    "yaml": lambda sentinel: f"out: !!python/object/apply:pathlib.Path.touch [{sentinel}]\n".encode(),
}
TENSORS = {
    "header of 2^60": tensors(b"{}", 2**60),
    "header of 100 MB": tensors(b"{}", 10**8),
    "overlap": tensors({"a": _tensor(0, 8), "b": _tensor(4, 12)}),
    "one place for two": tensors({"a": _tensor(0, 8), "b": _tensor(0, 8)}, content=bytes(8)),
    "beyond the end": tensors({"a": _tensor(0, 2**62, shape=(2**60,))}),
    "backwards": tensors({"a": _tensor(16, 8)}),
    "one name twice": tensors(b'{"a":%s,"a":%s}' % ((json.dumps(_tensor(0, 8)).encode(),) * 2), content=bytes(8)),
    "shape of NaN": tensors(json.dumps({"a": _tensor(0, 8, shape=(float("nan"),))}).encode()),
    "negative shape": tensors({"a": _tensor(0, 8, shape=(-2,))}),
    "vast shape": tensors({"a": _tensor(0, 8, shape=(2**62, 4))}),
    "endless empty shape": tensors({"a": _tensor(0, 0, shape=(0, 2**62))}, content=b""),
    "unknown type": tensors({"a": _tensor(0, 8, kind="O")}),
    "nested": tensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
}
PAYLOADS = [*CODE, *TENSORS]


def made(payload: str, sentinel: Path) -> bytes:
    return TENSORS[payload] if payload in TENSORS else CODE[payload](sentinel)


# -- places -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(finished_run: RunFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run.path, tmp_path / "run"))


@pytest.mark.parametrize(
    ("place", "payload"),
    [
        *(("student/model.safetensors", payload) for payload in PAYLOADS),
        *(("distiller.safetensors", payload) for payload in CODE),  # which the same function reads
        *(("checkpoint.safetensors", payload) for payload in CODE),
    ],
)
def test_weights_that_are_none(copied: Path, sentinel: Path, place: str, payload: str, recipe_of_run: Recipe) -> None:
    """Of a model, a run's distiller, a run that would go on."""
    (copied / place).write_bytes(made(payload, sentinel))
    if place == "checkpoint.safetensors":
        shutil.rmtree(copied / "student")
    opens = {
        "student/model.safetensors": lambda: Backbone(f"local-dir:{copied / 'student'}"),
        "distiller.safetensors": lambda: load_run(copied),
        "checkpoint.safetensors": lambda: quietly(recipe_of_run),
    }[place]
    with memory_within(_MEMORY), pytest.raises(WeightsError, match=r"safetensors") as caught:
        opens()
    assert "\n" not in str(caught.value)


@pytest.fixture
def recipe_of_run(copied: Path) -> Recipe:
    """That of the copied run, where it lies."""
    values = yaml.safe_load((copied / "config.yaml").read_text(encoding="utf-8"))
    (copied / "config.yaml").write_text(yaml.safe_dump(values | {"out": str(copied)}), encoding="utf-8")
    return load_recipe(copied / "config.yaml")


@pytest.mark.parametrize("state", ["[" * 100_000, "NaN", "[1]", "null", '{"engine": {"x": [1e999]}}'])
def test_the_state_of_a_checkpoint_that_is_none(recipe_of_run: Recipe, state: str) -> None:
    folder = RunFolder(recipe_of_run.out)
    kept = RunFolder(folder.path).load_checkpoint()
    assert kept is not None
    shutil.rmtree(folder.student)
    save_file(kept.tensors, folder.checkpoint, {"epoch": "1", "step": "0", "state": state})
    with pytest.raises(WeightsError, match=r"checkpoint\.safetensors"):
        quietly(recipe_of_run)


OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "checkpoint_path": lambda file: {"checkpoint_path": str(file)},
    "overlay": lambda file: {"pretrained_cfg_overlay": {"file": str(file)}},
    "config": lambda file: {"pretrained_cfg": {"file": str(file), "architecture": "test_resnet"}},
}


@pytest.mark.parametrize("payload", ["pickle", "torch.save"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_recipe_names_no_file_that_would_be_unpickled(
    recipe: Callable[..., Recipe], tmp_path: Path, sentinel: Path, option: str, payload: str
) -> None:
    """timm's options reach other files than the run's own."""
    file = tmp_path / "weights.pth"
    file.write_bytes(CODE[payload](sentinel))
    student = {"name": "test_resnet", "pretrained": True, "kwargs": OPTIONS[option](file)}
    described = recipe(tmp_path / "out", student=student)
    with pytest.raises(WeightsError, match="safetensors files alone, not unpickled"):
        build_model(described.student, described)


def test_timm_itself_unpickles_no_code(tmp_path: Path, sentinel: Path) -> None:
    """The floor of our timm version: what is fetched from the hub goes this way."""
    (tmp_path / "weights.pth").write_bytes(saved_by_torch(sentinel))
    with pytest.raises(RuntimeError, match="weights_only"):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "os.system"},
        {"architecture": "hf-hub:somebody/something"},
        {"architecture": "local-dir:/etc"},
        {"architecture": ["test_resnet"]},
        {"model_args": {"checkpoint_path": "weights.pth"}},
        {"model_args": {"act_layer": "__import__('os').system('true')"}},
        {"model_args": {"in_chans": 10**12}},
        {"model_args": {"embed_dim": 2000}},
        {"architecture": "vit_giant_patch14_clip_224", "model_args": {}},
        {"model_args": [1]},
        {"pretrained_cfg": None},
    ],
)
def test_a_description_of_a_model_that_is_none(copied: Path, changes: dict[str, Any]) -> None:
    file = copied / "student" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with memory_within(_MEMORY), pytest.raises(WeightsError, match=r"exported timm model|does not fit"):
        Backbone(f"local-dir:{copied / 'student'}")


@pytest.fixture
def cached(tmp_path: Path, recipe: Callable[..., Recipe], distilled: Any) -> tuple[Callable[[], Any], Path]:
    """A cache of an untrained teacher that is complete, and what opens it."""
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    asked = {"folder": str(tmp_path / "cache"), "views": 1}
    described = recipe(tmp_path / "run", student=CONVNEXT, teacher=teacher, precompute=asked)
    assert described.teacher is not None
    torch.manual_seed(3)
    model = build_model(described.teacher, described).eval()
    options: dict[str, Any] = {"device": torch.device("cpu"), "processes": 1, "progress": False}

    def opens() -> TeacherCache:
        return teacher_cache(described, model, **options, say=lambda _: None)

    opens()
    return opens, tmp_path / "cache"


def _npy(shape: tuple[int, ...], kind: str, content: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("images.npy", payload) for payload in CODE.values()),
        ("images.npy", lambda _: _npy((2**60, 4), "<f4")),
        ("images.npy", lambda _: _npy((2**40,), "|u1")),
        ("images.npy", lambda _: _npy((1, 64, 1, 32, 32), "|O", bytes(8 * 64 * 32 * 32))),
        ("images.npy", lambda _: _npy((1, 2, 1, 32, 32), "<f4", bytes(4 * 2 * 32 * 32))),
        ("labels.npy", lambda _: _npy((1, 64), "<f8", bytes(8 * 64))),
        ("cache.json", lambda _: b"[" * 100_000),
        ("cache.json", lambda _: b"3"),
        ("cache.json", lambda _: b'{"done": 1e999}'),
        ("cache.json", lambda _: b'{"done": -5}'),
    ],
)
def test_a_teacher_cache_that_is_none(cached: Any, sentinel: Path, file: str, content: Callable[[Path], bytes]) -> None:
    opens, folder = cached
    (folder / file).write_bytes(content(sentinel))
    with memory_within(_MEMORY), pytest.raises(RunError, match=rf"{file} .*[Dd]elete the folder"):
        opens()


@pytest.mark.parametrize("content", ["[" * 100_000, "3", '{"x": "much"}', "[[]]"])
def test_what_a_teacher_cache_remembers_is_numbers(cached: Any, content: str) -> None:
    opens, folder = cached
    (folder / "remembered.json").write_text(content)
    with pytest.raises(RunError, match="holds no numbers"):
        opens().remembered("x", lambda: 1.0)


@pytest.fixture
def analysis(tmp_path: Path) -> Path:
    """A copy of the bundled analysis."""
    from sfkd.loading import DEMO

    return Path(shutil.copytree(DEMO / "analysis", tmp_path / "analysis")) / "analysis.json"


def _lying(_: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", _npy((2**50,), "|u1"))
    return file.getvalue()


def _encrypted(_: Path) -> bytes:
    content = bytearray(_lying(_))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + at] |= 1
    return bytes(content)


def _broken_stream(_: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy((400,), "|u1", bytes(400)))
    content = bytearray(file.getvalue())
    content[content.index(b"x.npy") + len("x.npy")] = 0xFF  # a kind of block that there is none of
    return bytes(content)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        *((".npz", payload) for payload in CODE.values()),
        (".npz", _lying),
        (".npz", _encrypted),
        (".npz", _broken_stream),
        (".json", lambda _: b'{"format": "sfkd analysis", "version": 1, "analysis": ' + b"[" * 100_000),
        (".json", lambda _: b'{"format": "sfkd analysis", "version": 1, "analysis": {"result": ["system"]}}'),
        (".json", lambda _: b'{"format": "sfkd analysis", "version": 1, "analysis": {"result": "os.system"}}'),
        (".json", lambda _: b'{"format": "sfkd analysis", "version": 1, "analysis": ' + b"1" * 5000 + b"}"),
    ],
)
def test_an_analysis_that_is_none(
    analysis: Path, sentinel: Path, ending: str, content: Callable[[Path], bytes]
) -> None:
    analysis.with_suffix(ending).write_bytes(content(sentinel))
    with memory_within(_MEMORY), pytest.raises(ValueError, match="cannot be read as an analysis"):
        sfkd_viz.load_analysis(analysis)


def test_script_in_the_names_of_an_analysis_is_text_in_its_report(analysis: Path, tmp_path: Path) -> None:
    script = "<img src=x onerror=window.pwned=1>"
    text = analysis.read_text(encoding="utf-8").replace('"convnext_atto"', f'"{script}"')
    analysis.write_text(text.replace('"layers.0"', f'"layers.0{script}"'), encoding="utf-8")
    page = write_report(sfkd_viz.load_analysis(analysis), tmp_path / "report.html", title=script)
    assert "<img" not in page.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


# -- recipes ----------------------------------------------------------------------------------------------------------

_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
_MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9))
TEXTS = {
    "code": "out: !!python/object/apply:os.system ['true']",
    "module": "out: !!python/module:os",
    "laughs": _LAUGHS,
    "merges": _MERGES,
    "cycle": "out: &a [*a]",
    "merged cycle": "&a {<<: *a}",
    "nested": "out: " + "[" * 1500,
    "date": "out: 2020-99-99",
    "number": "out: !!int many",
    "digits": "out: 1" + "0" * 5000,
    "sexagesimal": "out: 1" + ":1" * 20_000,
    "truth": "out: !!bool perhaps",
    "time": "out: !!timestamp never",
    "null byte": "out: a\0b",
    "list as key": "{[a]: 1}",
    "set": "!!set {a, b}",
    "binary": "out: !!binary '_'",
    "large": "out: " + "x" * 2**20,
    "objects": "!!python/object:subprocess.Popen {args: [true]}",
}


@pytest.mark.parametrize("text", TEXTS)
def test_recipes_and_studies_that_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine" / "recipe.yaml"
    file.parent.mkdir()
    file.write_text(TEXTS[text])
    (file.parent / "student").mkdir()
    (file.parent / "student" / "model.safetensors").touch()
    (file.parent / "config.yaml").write_text(TEXTS[text])
    with memory_within(_MEMORY):
        for opens in (load_recipe, load_study):
            with pytest.raises(RecipeError, match=r"recipe\.yaml"):
                opens(file)
        with pytest.raises(UserError, match=r"recipe\.yaml|recipe —"):
            Recipes(file.parent).made(Wish("recipe", "new"), tmp_path / "new")
        assert RunsRoot(tmp_path).finished() == {}, "a run that cannot be opened must not hide the others"


@pytest.mark.parametrize("teacher", ["text", "[1]", "{run: /etc}", "{name: x, kwargs: 1}"])
def test_a_recipe_of_the_page_whose_parts_are_none(tmp_path: Path, teacher: str, recipe_values: Any) -> None:
    values = recipe_values("nowhere") | {"teacher": yaml.safe_load(teacher), "data": 3}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="data: "):
        Recipes(tmp_path).made(Wish("bad", "new", "resnet18", "resnet18", 3), tmp_path / "new")


def test_a_recipe_of_the_page_is_named_not_found(tmp_path: Path) -> None:
    for name in ("../x", "/etc/passwd", "", "x\0"):
        with pytest.raises(UserError, match="Choose one of the recipes"):
            Recipes(tmp_path).made(Wish(name, "new"), tmp_path / "new")


@pytest.mark.parametrize("place", [".", "mine", "mine/config.yaml", "mine/student/deep"])
def test_links_that_lead_to_themselves_and_pipes_hide_no_run(
    finished_run: RunFolder, tmp_path: Path, place: str
) -> None:
    finished_run.export(tmp_path / "runs" / "good")
    bad = finished_run.export(tmp_path / "runs" / "mine").path
    shutil.rmtree(bad) if place == "mine" else (bad / "config.yaml").unlink()
    if place == ".":
        os.mkfifo(bad / "config.yaml")
    else:
        (tmp_path / "runs" / place).symlink_to(Path(place).name)
    runs = RunsRoot(tmp_path / "runs")
    assert list(runs.finished()) == ["good"]
    if place != ".":
        with pytest.raises(UserError, match="leads out"):
            runs.folder("mine")


# -- data -------------------------------------------------------------------------------------------------------------


def _idx(*shape: int) -> bytes:
    return struct.pack(">HBB", 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape)


@pytest.fixture
def idx_root(tmp_path: Path, digits: Callable[..., Path]) -> Path:
    return digits(tmp_path / "data", train=4, test=4)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        *(("", payload) for payload in CODE.values()),
        *((".gz", lambda sentinel, make=make: gzip.compress(make(sentinel))) for make in list(CODE.values())[:4]),
        ("", lambda _: _idx(2**32 - 1, 2**32 - 1, 2**32 - 1)),
        ("", lambda _: _idx(10**6, 28, 28)),
        (".gz", lambda _: gzip_bomb(_idx(4, 28, 28))),
        (".gz", lambda _: gzip_bomb(_idx(2**32 - 1, 1, 1))),
        (".gz", lambda _: gzip_bomb(_idx(4, 28, 28))[:100]),
        (".gz", lambda _: b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\xff" * 100),
    ],
)
def test_images_that_are_none(idx_root: Path, sentinel: Path, ending: str, content: Callable[[Path], bytes]) -> None:
    (idx_root / "train-images-idx3-ubyte").unlink()
    (idx_root / f"train-images-idx3-ubyte{ending}").write_bytes(content(sentinel))
    data = Data(name="torch/mnist", root=str(idx_root), num_classes=10, input_size=(1, 32, 32), mean=(0.4,), std=(0.3,))
    with memory_within(_MEMORY), pytest.raises(DataError, match="cannot be read as an idx file"):
        create_dataset(data, "train")


# -- pictures ---------------------------------------------------------------------------------------------------------


def png(width: int, height: int, content: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def saved(form: str, side: int = 40, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((side, side // 2), 50).convert("RGB").save(file, form, **options)
    return file.getvalue()


def _many_frames() -> bytes:
    whole = saved("GIF")
    frames = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:frames] + whole[frames:-1] * 10_000 + b";"


def _text_bomb() -> bytes:
    """Compressed text in a PNG: 64 MiB of it."""
    text = b"Comment\0\0" + zlib.compress(bytes(2**26))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = saved("PNG")
    return whole[:33] + chunk + whole[33:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: png(50_000, 50_000, zlib.compress(b"")), "cannot be read"),
        (lambda: png(9_000, 9_000, zlib.compress(b"")), "at most 50 million"),
        (lambda: png(2**31 - 1, 2**31 - 1, zlib.compress(b"")), "cannot be read"),
        (lambda: png(0, 0, zlib.compress(b"")), "cannot be read"),
        (lambda: png(40, 40, b""), "cannot be read"),
        (_text_bomb, "cannot be read"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "cannot be read"),
        (lambda: b"<!doctype html><script>alert(1)</script>", "cannot be read"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "cannot be read"),
        (lambda: b"P6 99999 99999 255\n", "cannot be read"),
        (lambda: b"", "cannot be read"),
        (lambda: saved("PNG")[:300], "cannot be read"),
        (lambda: saved("JPEG")[:20], "cannot be read"),
        (lambda: saved("GIF")[:15], "cannot be read"),
        (lambda: saved("TIFF")[:-30], "cannot be read"),
        (lambda: saved("WEBP")[:-30], "cannot be read"),
        (lambda: b"II*\0" + struct.pack("<I", 8) + bytes(40), "cannot be read"),
        (lambda: os.urandom(2**20), "cannot be read"),
    ],
)
def test_pictures_that_are_none(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(content())
    with memory_within(_MEMORY), pytest.raises(UserError, match=message):
        Pictures().upload(str(file))
    assert not file.exists()


@pytest.mark.parametrize(
    "content",
    [
        lambda: png(40, 20, zlib.compress(bytes(2**28), 1)),
        _many_frames,
        lambda: saved("PNG") + b"<script>alert(1)</script>",
        lambda: saved("JPEG") + zipped_bomb(Path()),
        lambda: saved("JPEG", comment=b"<script>alert(1)</script>"),
        lambda: saved("PNG") + bytes(40 * 2**20),
    ],
    ids=["more pixels than it says", "10,000 frames", "page behind", "archive behind", "script inside", "40 MB"],
)
def test_pictures_with_more_behind_are_their_first_frame(tmp_path: Path, content: Callable[[], bytes]) -> None:
    """What is behind the pixels is not read; the thumbnail that the page gets is drawn anew."""
    file = tmp_path / "picture.png"
    file.write_bytes(content())
    pictures = Pictures()
    with memory_within(_MEMORY):
        kept = pictures.upload(str(file))
    assert b"script" not in kept.uri.encode()
    assert pictures.of(kept.source)[0].size == (40, 20)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photograph_stands_upright(tmp_path: Path, form: str) -> None:
    """As the camera said that it was held."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "photo").write_bytes(saved(form, exif=exif))
    pictures = Pictures()
    assert pictures.of(pictures.upload(str(tmp_path / "photo")).source)[0].size == (20, 40)
