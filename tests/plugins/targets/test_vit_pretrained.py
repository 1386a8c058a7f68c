"""The vision transformer, and networks that start from weights on disk."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.v2 import functional as T

from tests.conftest import TINY
from uebench import Recipe, Target, UserError, kit
from uebench.cli.main import main
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.compute.train import build_network
from uebench.submission.restore_components import restore_component
from uebench_plugins.targets.pretrained import Finetune, LinearProbe
from uebench_plugins.targets.vit import ViTSmall

TINY_VIT = ViTSmall(width=24, depth=2, heads=3, hidden=32)
HOST = torch.device("cpu")


def fresh(target: Target, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 4) -> nn.Module:
    return build_network(target, shape, classes, "fp32", HOST, seed=0)


# ViT


def test_the_vision_transformer_has_the_layers_of_vit_small() -> None:
    with torch.device("meta"):
        network = ViTSmall().build((3, 32, 32), 10)
    width, inner = 384, 1536
    patches = 3 * 4 * 4 * width + width
    tokens = width + (1 + 8 * 8) * width
    block = 4 * (width * width + width) + (width * inner + inner) + (inner * width + width) + 2 * 2 * width
    whole = patches + tokens + 12 * block + 2 * width + width * 10 + 10
    assert sum(weight.numel() for weight in network.parameters()) == whole == 21_342_346
    attention = [layer for layer in network.modules() if isinstance(layer, nn.MultiheadAttention)]
    assert [layer.num_heads for layer in attention] == [6] * 12


def test_it_looks_at_patches_and_at_their_places() -> None:
    network = fresh(TINY_VIT, (3, 8, 8)).eval()
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, 8)
    swapped = image.roll(4, dims=3)
    assert not torch.allclose(network(image), network(swapped), atol=1e-4), "the same patches in other places"
    seen: list[Tensor] = []
    project = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    project.register_forward_hook(lambda layer, given, made: seen.append(made))
    network(image)
    network(swapped)
    assert torch.allclose(seen[0].roll(1, dims=3), seen[1], atol=1e-6), "four patches, each by itself"


def test_it_takes_grey_images_and_drawn_weights_of_the_same_size() -> None:
    torch.manual_seed(0)
    grey = ViTSmall().build((1, 16, 16), 3)
    assert grey(torch.rand(2, 1, 16, 16)).shape == (2, 3)
    project = next(layer for layer in grey.modules() if isinstance(layer, nn.Conv2d))
    assert float(project.weight.detach().std()) == pytest.approx(1 / 4, rel=0.05), (
        "one over the root of the inputs of a patch"
    )


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: ViTSmall(heads=5), "vit-small: width must be a multiple of heads, not 384 of 5"),
        (
            lambda: ViTSmall().build((3, 32, 24), 4),
            "vit-small: images must be squares of a multiple of 4 pixels, not 32x24",
        ),
        (
            lambda: ViTSmall(patch=5).build((3, 32, 32), 4),
            "vit-small: images must be squares of a multiple of 5 pixels, not 32x32",
        ),
    ],
)
def test_what_it_cannot_be_is_refused(make: object, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == expected


def test_it_learns_with_adamw() -> None:
    """Which quarter of the image is bright: a matter of places, which attention has to learn."""
    recipe = Recipe(steps=80, batch=32, lr=0.003, weight_decay=0.05, schedule="one-cycle", optimiser="adamw")
    network = fresh(TINY_VIT, (3, 8, 8))
    training = kit.Training(network, recipe, 256, seed=0)
    torch.manual_seed(1)
    images, labels = 0.5 * torch.rand(256, 3, 8, 8), torch.arange(256) % 4
    for one, label in zip(images, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        one[:, row : row + 4, column : column + 4] += 0.2
    for step in range(recipe.steps):
        index = training.batch(step)
        training.step(step, images[index], labels[index])
    with kit.frozen(network):
        right = (network(images).argmax(1) == labels).float().mean()
    assert float(right) > 0.9


# Weights on disk


@cache
def weights_of_a_trained_network() -> dict[str, Tensor]:
    """Return a ResNet-18 whose batch statistics are not those of a fresh one."""
    torch.manual_seed(3)
    network = models.resnet18(weights=None, num_classes=7)
    network(torch.rand(16, 3, 32, 32))
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    safetensors.torch.save_file(weights_of_a_trained_network(), path)
    return path


def features(images: Tensor) -> Tensor:
    """Return what torchvision's network makes of normalised images, in eval mode, without its head."""
    network = models.resnet18(weights=None, num_classes=7)
    network.load_state_dict(weights_of_a_trained_network())
    network.fc = nn.Identity()
    colours = T.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    made: Tensor = network.eval()(colours)
    return made


@pytest.mark.parametrize("cls", [Finetune, LinearProbe])
@pytest.mark.parametrize("size", [32, 48])
def test_a_network_starts_from_its_weights_behind_a_head_of_its_own(
    cls: type[Finetune] | type[LinearProbe], size: int, path: Path
) -> None:
    network = fresh(cls(weights=str(path), size=size))
    head = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    assert (head.in_features, head.out_features) == (512, 4)
    images = torch.rand(3, 3, 32, 32)
    resized = T.resize(images, [size, size], antialias=True)
    with kit.frozen(network), torch.no_grad():
        assert torch.allclose(network(images), head(features(resized)), atol=1e-4)


@pytest.mark.parametrize("cls", [Finetune, LinearProbe])
def test_grey_images_are_seen_in_three_channels(cls: type[Finetune] | type[LinearProbe], path: Path) -> None:
    network, grey = fresh(cls(weights=str(path), size=32), (1, 32, 32)).eval(), torch.rand(2, 1, 32, 32)
    coloured = fresh(cls(weights=str(path), size=32)).eval()
    assert torch.allclose(network(grey), coloured(grey.expand(-1, 3, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("arch", ["resnet50", "wide_resnet50_2", "mobilenet_v2", "efficientnet_b0"])
def test_other_networks_of_torchvision_start_from_theirs(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, path = models.get_model(arch, weights=None, num_classes=7), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    made = fresh(LinearProbe(weights=str(path), arch=arch, size=32))  # type: ignore[arg-type]
    images = torch.rand(2, 3, 32, 32)
    colours = T.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    before = list(theirs.eval().children())[-1]
    seen: list[Tensor] = []
    before.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    head = [layer for layer in made.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        theirs(colours)
        assert torch.allclose(made(images), head(seen[0]), atol=1e-4)


def test_a_target_on_record_is_known_without_its_file(path: Path) -> None:
    there = Finetune(weights=str(path), arch="resnet18")
    here = registry().build("target", f"finetune:content={there.content}")
    assert canonical_text(here) == canonical_text(there)
    assert restore_component("target", canonical_text(there)) == here
    with pytest.raises(UserError, match=f"finetune needs weights=... .file whose SHA-256 starts with {there.content}"):
        fresh(here)  # type: ignore[arg-type]
    for text in ("finetune", "finetune:content=12ab"):
        with pytest.raises(UserError, match=r"target finetune needs weights=... \(file of the weights"):
            registry().build("target", text)


def learned(network: nn.Module) -> dict[str, bool]:
    """Train a network for three steps, its views attacked in between; return what of its state has changed."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training = kit.Training(network, Recipe(steps=3, batch=8, lr=0.001, schedule="constant"), 8, seed=0)
    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8) % 4
    for step in range(3):
        attacked = kit.pgd(network, images, labels, radius=0.1, steps=1, step=0.1, random_start=False)
        assert float(((attacked - images).abs() > 0.01).float().mean()) > 0.9, "gradients reach the images"
        network.train()
        training.step(step, attacked, labels)
    return {name: not torch.equal(value, before[name]) for name, value in network.state_dict().items()}


def test_a_linear_probe_changes_nothing_but_its_head(path: Path) -> None:
    changed = learned(fresh(LinearProbe(weights=str(path), size=32)))
    heads = {name for name, different in changed.items() if different}
    assert len(changed) > 100
    assert {name.rpartition(".")[2] for name in heads} == {"weight", "bias"}
    assert len(heads) == 2


def test_finetuning_changes_weights_and_batch_statistics(path: Path) -> None:
    changed = learned(fresh(Finetune(weights=str(path), size=32)))
    same = {name for name, different in changed.items() if not different}
    assert {name.rpartition(".")[2] for name in same} == {"mean", "deviation"}, "of the colours"


def test_weights_are_known_by_their_content_not_by_their_path(path: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    copy.write_bytes(path.read_bytes())
    safetensors.torch.save_file({"fc.weight": torch.zeros(1)}, other)
    first, second, third = (Finetune(weights=str(one)) for one in (path, copy, other))
    assert canonical_text(first) == canonical_text(second) != canonical_text(third)
    assert str(tmp_path) not in canonical_text(second)
    assert registry().build("target", f"finetune:weights={copy},content={first.content[:6]}") == second


def test_torchs_own_files_are_refused_with_a_line_that_converts_them(tmp_path: Path) -> None:
    old = tmp_path / "its weights.pth"
    torch.save({"conv1.weight": torch.rand(4, 2).T}, old)
    with pytest.raises(UserError, match=r"linear-probe: .* is not a .safetensors file") as caught:
        LinearProbe(weights=str(old))
    (message,) = str(caught.value).splitlines()
    program, *words = shlex.split(message.partition("a file of torch by: ")[2])
    assert program == "python"
    subprocess.run([sys.executable, *words], check=True)
    new = safetensors.torch.load_file(old.with_suffix(".safetensors"))
    assert torch.equal(new["conv1.weight"], torch.load(old, weights_only=True)["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer4.2.conv1.weight": torch.zeros(3)}, "layer4.2.conv1.weight is (3,) in the file, none in the network"),
        (
            {"conv1.weight": torch.zeros(64, 3, 3, 3)},
            "conv1.weight is (64, 3, 3, 3) in the file, (64, 3, 7, 7) in the network",
        ),
        ({"layer1.0.bn1.bias": None}, "layer1.0.bn1.bias is none in the file, (64,) in the network"),
    ],
    ids=["a deeper network", "another stem", "something missing"],
)
def test_weights_of_another_network_are_refused(
    change: dict[str, Tensor | None], expected: str, tmp_path: Path
) -> None:
    whole = {**weights_of_a_trained_network(), **change}
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file({name: value for name, value in whole.items() if value is not None}, path)
    with pytest.raises(UserError) as caught:
        fresh(Finetune(weights=str(path)))
    assert str(caught.value) == f"finetune: {path} does not fit resnet18: {expected}"


def test_weights_need_no_head_and_no_counters(tmp_path: Path) -> None:
    bare = {
        name: value
        for name, value in weights_of_a_trained_network().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    path = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(bare, path)
    assert fresh(Finetune(weights=str(path), size=32))(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_files_that_are_missing_damaged_or_changed_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match=f"finetune: cannot read {path}: No such file or directory"):
        Finetune(weights=str(path))
    path.write_bytes(b"no weights")
    target = Finetune(weights=str(path))
    with pytest.raises(UserError, match=f"finetune: cannot read {path}: Error while deserializing header"):
        fresh(target)
    with pytest.raises(UserError, match=r"has content [0-9a-f]{16}, not 1234"):
        Finetune(weights=str(path), content="1234")
    path.write_bytes(b"others")
    with pytest.raises(UserError, match="has changed since this run began"):
        fresh(target)


def test_images_of_two_channels_are_refused(path: Path) -> None:
    with pytest.raises(UserError, match="pretrained networks take images of 1 or 3 channels, not 2"):
        fresh(LinearProbe(weights=str(path)), (2, 32, 32))


def test_a_board_of_networks_with_weights_is_read_by_those_who_have_not_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a run that has networks to train, and a re-run of what was handed in, need it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(models.mobilenet_v2(weights=None).state_dict(), file)
    content = LinearProbe(weights=str(file)).content
    (tmp_path / "small.toml").write_text(
        f'title = "Small"\nlike = "{TINY}"\nnoises = ["none", "em"]\nbreakers = ["none"]\ntargets = ["linear-probe"]\n'
        '[required]\nbreakers = ["none"]\ntargets = ["linear-probe"]\n[recipe]\nsteps = 3\n'
        f'[defaults.target.linear-probe]\narch = "mobilenet_v2"\ncontent = "{content}"\nsize = 32\n'
    )

    def call(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == status, done.output
        return done.output

    lacks = f"target linear-probe needs weights=... (file whose SHA-256 starts with {content})"
    assert call("run", "small.toml", "--workers", "1", status=2) == f"Error: {lacks}\n"
    call("run", "small.toml", "--workers", "1", "--target", f"linear-probe:weights={file}")
    away = file.rename(tmp_path / "elsewhere.safetensors")
    call("run", "small.toml", "--workers", "1")
    assert lacks in call("run", "small.toml", "--workers", "1", "--seed", "1", status=2)
    for command in ("rank", "site"):
        call(command, "small.toml")
    call("submit", "small.toml", "--noise", "em", "--name", "Ada", "--into", "em.zip")
    verify = ("verify", "em.zip", "--suite", "small.toml", "--rerun", "1", "--workers", "1", "--store", "other")
    assert lacks in call(*verify, status=1)
    assert "re-run    1 of 1 cells" in call(*verify, "--target", f"linear-probe:weights={away}")
