"""The I3D: shapes, TensorFlow's padding, and a checkpoint reader that runs no code."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stream_detector.errors import CheckpointError
from stream_detector.models.backbones.i3d import CLASSES, I3D, _pad_same, load_i3d, read_i3d_checkpoint


def _published(model: I3D) -> dict[str, Any]:
    """The content of a checkpoint in the published layout, made from a model."""
    params: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    names = {"branch0": ["0a_1x1"], "branch1": ["0a_1x1", "0b_3x3"], "branch2": ["0a_1x1", "0b_3x3"]}
    for key, value in model.stages.state_dict().items():
        stage, *rest, leaf = key.split(".")
        path = [stage]
        if rest and rest[0].startswith("branch"):
            index = int(rest[1]) if rest[0] in ("branch1", "branch2") else 0
            unit = names[rest[0]][index] if rest[0] in names else "0b_1x1"
            path.append(f"Branch_{rest[0][-1]}/Conv3d_{unit}")
        p, s = params, statistics
        for part in path:
            p, s = p.setdefault(part, {}), s.setdefault(part, {})
        array = value.numpy()
        if leaf == "weight":
            p["Conv_0"] = {"kernel": array.transpose(2, 3, 4, 1, 0)}
        elif leaf == "shift":
            p["BatchNorm_0"] = {"bias": array}
        else:
            short = {"mean": "mean", "variance": "var"}[leaf]
            s.setdefault("BatchNorm_0", {})[short] = array.reshape(1, 1, 1, 1, -1)
    assert model.fc is not None
    kernel = model.fc.weight.detach().numpy().T.reshape(1, 1, 1, 1024, CLASSES)
    params["Logits/Conv3d_0c_1x1"] = {"Conv_0": {"kernel": kernel, "bias": model.fc.bias.detach().numpy()}}
    return {"params": params, "batch_stats": statistics}


@pytest.fixture(scope="module")
def model() -> I3D:
    torch.manual_seed(3)
    made = I3D(CLASSES).eval().requires_grad_(False)
    for name, buffer in made.named_buffers():
        buffer.uniform_(0.5, 1.5) if name.endswith("variance") else buffer.normal_()
    return made


@pytest.fixture(scope="module")
def checkpoint(model: I3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d-kinetics-400.ckpt"
    path.write_bytes(pickle.dumps(_published(model)))
    return path


def test_a_published_checkpoint_is_read_tensor_by_tensor(model: I3D, checkpoint: Path) -> None:
    state = read_i3d_checkpoint(checkpoint)
    wanted = model.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_the_archive_gives_the_same_network(model: I3D, checkpoint: Path, tmp_path: Path) -> None:
    archive = tmp_path / "i3d.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(checkpoint, "i3d-1/weights/i3d-kinetics-400.ckpt")
    loaded = load_i3d(archive)
    clip = torch.randn(1, 3, 16, 32, 32)
    features, logits = loaded.both(clip)
    assert features.shape == (1, 1024) and logits.shape == (1, CLASSES)
    assert torch.allclose(loaded.features(clip), model.features(clip))
    assert torch.allclose(loaded(clip), logits)


def test_features_of_the_original_size_are_the_mean_over_2_7_7(model: I3D) -> None:
    with torch.no_grad():
        x = torch.randn(1, 3, 16, 64, 64)
        for stage in model.stages:
            x = stage(x)
    assert x.shape == (1, 1024, 2, 2, 2)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(16, 7, 2), (15, 3, 2), (8, 3, 1), (7, 2, 2), (14, 3, 2)])
def test_padding_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    """Output size is ceil(n / stride), and output i looks at the inputs from i·stride − total // 2 on."""
    x = torch.arange(1.0, size + 1).reshape(1, 1, size, 1, 1)
    padded = _pad_same(x, (kernel, 1, 1), (stride, 1, 1))
    weight = torch.ones(1, 1, kernel, 1, 1)
    got = F.conv3d(padded, weight, stride=(stride, 1, 1)).flatten()
    count = -(-size // stride)
    front = max((count - 1) * stride + kernel - size, 0) // 2
    wanted = [
        sum(float(i + 1) for i in range(k * stride - front, k * stride - front + kernel) if 0 <= i < size)
        for k in range(count)
    ]
    assert got.tolist() == wanted


class _Runs:
    def __reduce__(self) -> Any:
        return (os.system, ("exit 3",))


@pytest.mark.parametrize(
    "content",
    [b"no pickle", b"", pickle.dumps({"params": {}}), pickle.dumps([1, 2]), pickle.dumps(_Runs())],
    ids=["text", "empty", "no-statistics", "list", "code"],
)
def test_other_files_are_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_i3d_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_an_archive_without_the_weights_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "other.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("readme")
        tar.addfile(info, io.BytesIO(b""))
    with pytest.raises(CheckpointError, match=r"holds no file"):
        read_i3d_checkpoint(archive)
    with pytest.raises(CheckpointError):
        read_i3d_checkpoint(tmp_path / "absent.ckpt")


def test_a_kernel_of_the_wrong_shape_is_refused(model: I3D, tmp_path: Path) -> None:
    content = _published(model)
    content["params"]["Conv3d_2b_1x1"]["Conv_0"]["kernel"] = np.zeros((1, 1, 1, 64, 32), np.float32)
    path = tmp_path / "wrong.ckpt"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_i3d(path)


def test_without_a_classifier_features_come_out() -> None:
    with pytest.raises(CheckpointError, match="without its classifier"):
        I3D().both(torch.zeros(1, 3, 16, 32, 32))
