import errno
import json
import shutil

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from vitrina import artifact
from vitrina.errors import ArtifactError
from vitrina.ids import Ids

STATE = {
    "vectors_": np.arange(6, dtype=np.float32).reshape(2, 3),
    "weights_": sparse.csr_matrix(np.eye(3, dtype=np.float32)),
    "items_": Ids(pl.Series(["b", "a"])),
    "table_": pl.DataFrame({"x": [1, 2]}),
    "until_": 17,
    "note_": None,
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    artifact.save(artifact.Saved(kind="Thing", params={"reg": 1.5}, state=STATE), path)
    return path


def test_everything_saved_comes_back(folder):
    saved = artifact.load(folder)
    assert (saved.kind, saved.params) == ("Thing", {"reg": 1.5})
    np.testing.assert_array_equal(saved.state["vectors_"], STATE["vectors_"])
    assert (saved.state["weights_"] != STATE["weights_"]).nnz == 0
    assert saved.state["items_"] == STATE["items_"]
    assert saved.state["table_"].equals(STATE["table_"])
    assert saved.state["until_"] == 17
    assert saved.state["note_"] is None


def test_saving_twice_replaces_the_first(folder):
    artifact.save(artifact.Saved(kind="Other", params={}), folder)
    assert artifact.load(folder).kind == "Other"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["arrays.safetensors", "items_.parquet", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named(folder, name, damage):
    file = folder / name
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 255]) + content[-8:])
    with pytest.raises(ArtifactError, match=name):
        artifact.load(folder)


def test_a_manifest_that_points_outside_its_folder_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = "0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="never writes"):
        artifact.load(folder)


def test_another_format_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ArtifactError, match="format 1"):
        artifact.load(folder)


def test_an_object_that_would_need_pickle_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ArtifactError, match="without pickle"):
        artifact.save(artifact.Saved(kind="Thing", params={}, state={"f_": object()}), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_model_in_place(folder, monkeypatch):
    def no_space(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", no_space)
    with pytest.raises(ArtifactError, match="No space left on device"):
        artifact.save(artifact.Saved(kind="New", params={}, state=STATE), folder)
    assert artifact.load(folder).kind == "Thing"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_missing_folder_says_so(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        artifact.load(tmp_path / "nowhere")


def test_a_moved_folder_still_loads(folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert artifact.load(tmp_path / "elsewhere").kind == "Thing"
