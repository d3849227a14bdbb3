"""The named endpoints, by the client that others use; and the example of the README."""

import json
import re

import numpy as np
import pytest
from app_process import running
from gradio_client import Client
from gradio_client.exceptions import AppError
from helpers import ROOT

import sfkd
import sfkd_viz

MEASURES = {
    "transfer": {"image": "mean:40"},
    "cka": {"image": "mean:40", "model": "alone"},
    "band_energy": {"layer": "layers.1 ↔ stages.2"},
    "radial_spectrum": {"image": "photo:cat"},
    "relative_amplitude": {"model": "teacher"},
    "gaussian": {"sigma": 0.1},
    "ds2s": {},
    "attribution": {"site": "layer", "levels": 1},
    "ablation": {"image": "mean:16", "levels": 1},
    "training": {},
}


@pytest.fixture(scope="module")
def address(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    finished_run.export(folder / "runs" / "mine")
    with running(folder) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    client = Client(address, verbose=False)
    yield client
    client.close()


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_a_table_of_plain_values(client, name):
    rows = client.predict(api_name=f"/{name}", **MEASURES[name])
    assert len(rows) > 2
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_numbers_are_those_of_the_library(client):
    run, samples = sfkd.load_demo()
    maps = run.teacher(samples.images[:1]).features["stages.0"]
    expected = sfkd_viz.band_energy(maps, "haar", 2).share
    rows = client.predict(api_name="/band_energy")
    found = {row["band"]: row["share"] for row in rows if row["model"] == "teacher · stages.0"}
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    assert list(found) == list(expected)


def test_runs_are_named_and_described(client):
    assert client.predict(api_name="/runs") == ["mine"]
    described = client.predict(run="mine", api_name="/describe")
    assert set(described["models"]) == {"teacher", "alone", "student"}
    assert client.predict(run="mine", layer=described["layers"][1], api_name="/ds2s")


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("gaussian", {"image": "file:/etc/passwd"}, "image has no value 'file:/etc/passwd'"),
        ("gaussian", {"sigma": 9}, "sigma has no value 9"),
        ("gaussian", {"layer": "nowhere"}, "layer expects one of layers.0 ↔ stages.0"),
        ("gaussian", {"run": "../x"}, "There is no run '../x'"),
        ("training", {"run": "nowhere"}, "no finished run 'nowhere'"),
        ("cka", {"model": "teacher", "image": "mean:40"}, "model expects one of student, alone"),
        ("ablation", {"model": "pupil"}, "model has no value 'pupil'"),
        ("transfer", {"levels": 9}, "levels has no value 9"),
    ],
)
def test_mistakes_are_one_message(client, name, asked, message):
    with pytest.raises(AppError, match=re.escape(message)):
        client.predict(api_name=f"/{name}", **asked)


def test_only_the_measures_are_offered_and_all_say_what_they_do(client):
    offered = client.view_api(return_format="dict")["named_endpoints"]
    assert set(offered) == {f"/{name}" for name in (*MEASURES, "runs", "describe")}
    assert all(len(endpoint["description"]) > 20 for endpoint in offered.values())


def test_the_example_of_the_readme(address):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "gradio_client" in block]
    values = {}
    exec(example.replace("http://127.0.0.1:7860", address), values)
    assert values["rows"]
    values["client"].close()
