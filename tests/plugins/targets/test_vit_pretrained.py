"""The vision transformer, and networks with pretrained weights."""

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


def build_seeded(target: Target, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 4) -> nn.Module:
    return build_network(target, shape, classes, "fp32", HOST, seed=0)


# ViT


def test_the_vision_transformer_has_the_layers_of_vit_small() -> None:
    with torch.device("meta"):
        network = ViTSmall().build((3, 32, 32), 10)
    width, hidden = 384, 1536
    patches = 3 * 4 * 4 * width + width
    tokens = width + (1 + 8 * 8) * width
    block = 4 * (width * width + width) + (width * hidden + hidden) + (hidden * width + width) + 2 * 2 * width
    total = patches + tokens + 12 * block + 2 * width + width * 10 + 10
    assert sum(weight.numel() for weight in network.parameters()) == total == 21_342_346
    attention = [layer for layer in network.modules() if isinstance(layer, nn.MultiheadAttention)]
    assert [layer.num_heads for layer in attention] == [6] * 12


def test_the_vision_transformer_uses_patches_and_their_positions() -> None:
    network = build_seeded(TINY_VIT, (3, 8, 8)).eval()
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, 8)
    swapped = image.roll(4, dims=3)
    assert not torch.allclose(network(image), network(swapped), atol=1e-4), "the same patches at other positions"
    outputs: list[Tensor] = []
    project = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    project.register_forward_hook(lambda layer, inputs, output: outputs.append(output))
    network(image)
    network(swapped)
    assert torch.allclose(outputs[0].roll(1, dims=3), outputs[1], atol=1e-6), "each patch is projected separately"


def test_the_vision_transformer_scales_its_weights_for_grey_images() -> None:
    torch.manual_seed(0)
    grey = ViTSmall().build((1, 16, 16), 3)
    assert grey(torch.rand(2, 1, 16, 16)).shape == (2, 3)
    project = next(layer for layer in grey.modules() if isinstance(layer, nn.Conv2d))
    assert float(project.weight.detach().std()) == pytest.approx(1 / 4, rel=0.05), "1 / sqrt(inputs of a patch)"


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
def test_unsuitable_parameters_and_images_are_refused(make: object, expected: str) -> None:
    with pytest.raises(UserError) as error:
        make()  # type: ignore[operator]
    assert str(error.value) == expected


def test_the_vision_transformer_learns_with_adamw() -> None:
    """The class is the bright quarter of the image, so the network must use positions."""
    recipe = Recipe(steps=80, batch=32, lr=0.003, weight_decay=0.05, schedule="one-cycle", optimiser="adamw")
    network = build_seeded(TINY_VIT, (3, 8, 8))
    training = kit.Training(network, recipe, 256, seed=0)
    torch.manual_seed(1)
    images, labels = 0.5 * torch.rand(256, 3, 8, 8), torch.arange(256) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[:, row : row + 4, column : column + 4] += 0.2
    for step in range(recipe.steps):
        index = training.batch(step)
        training.step(step, images[index], labels[index])
    with kit.frozen(network):
        accuracy = (network(images).argmax(1) == labels).float().mean()
    assert float(accuracy) > 0.9


# Pretrained weights


@cache
def weights_of_a_trained_network() -> dict[str, Tensor]:
    """Return the weights of a ResNet-18 whose batch statistics are not the initial ones."""
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
    """Return the features of torchvision's network without its head, in eval mode, for images in [0, 1]."""
    network = models.resnet18(weights=None, num_classes=7)
    network.load_state_dict(weights_of_a_trained_network())
    network.fc = nn.Identity()
    normalised = T.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    result: Tensor = network.eval()(normalised)
    return result


@pytest.mark.parametrize("cls", [Finetune, LinearProbe])
@pytest.mark.parametrize("size", [32, 48])
def test_a_network_has_the_given_weights_and_a_new_head(
    cls: type[Finetune] | type[LinearProbe], size: int, path: Path
) -> None:
    network = build_seeded(cls(weights=str(path), size=size))
    head = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    assert (head.in_features, head.out_features) == (512, 4)
    images = torch.rand(3, 3, 32, 32)
    resized = T.resize(images, [size, size], antialias=True)
    with kit.frozen(network), torch.no_grad():
        assert torch.allclose(network(images), head(features(resized)), atol=1e-4)


@pytest.mark.parametrize("cls", [Finetune, LinearProbe])
def test_grey_images_are_copied_to_three_channels(cls: type[Finetune] | type[LinearProbe], path: Path) -> None:
    network, grey = build_seeded(cls(weights=str(path), size=32), (1, 32, 32)).eval(), torch.rand(2, 1, 32, 32)
    coloured = build_seeded(cls(weights=str(path), size=32)).eval()
    assert torch.allclose(network(grey), coloured(grey.expand(-1, 3, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("arch", ["resnet50", "wide_resnet50_2", "mobilenet_v2", "efficientnet_b0"])
def test_other_networks_of_torchvision_start_from_their_weights(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original, path = models.get_model(arch, weights=None, num_classes=7), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(original.state_dict(), path)
    network = build_seeded(LinearProbe(weights=str(path), arch=arch, size=32))  # type: ignore[arg-type]
    images = torch.rand(2, 3, 32, 32)
    normalised = T.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    original_head = list(original.eval().children())[-1]
    head_inputs: list[Tensor] = []
    original_head.register_forward_pre_hook(lambda layer, arguments: head_inputs.append(arguments[0]))
    head = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        original(normalised)
        assert torch.allclose(network(images), head(head_inputs[0]), atol=1e-4)


def test_a_recorded_target_can_be_described_without_its_file(path: Path) -> None:
    target = Finetune(weights=str(path), arch="resnet18")
    described = registry().build("target", f"finetune:content={target.content}")
    assert canonical_text(described) == canonical_text(target)
    assert restore_component("target", canonical_text(target)) == described
    with pytest.raises(UserError, match=f"finetune needs weights=... .file whose SHA-256 starts with {target.content}"):
        build_seeded(described)  # type: ignore[arg-type]
    for text in ("finetune", "finetune:content=12ab"):
        with pytest.raises(UserError, match=r"target finetune needs weights=... \(file of the weights"):
            registry().build("target", text)


def train_on_attacked_images(network: nn.Module) -> dict[str, bool]:
    """Train a network for three steps on attacked images; return whether each tensor of its state has changed."""
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


def test_a_linear_probe_changes_only_its_head(path: Path) -> None:
    changed = train_on_attacked_images(build_seeded(LinearProbe(weights=str(path), size=32)))
    changed_names = {name for name, is_changed in changed.items() if is_changed}
    assert len(changed) > 100
    assert {name.rpartition(".")[2] for name in changed_names} == {"weight", "bias"}
    assert len(changed_names) == 2


def test_finetuning_changes_weights_and_batch_statistics(path: Path) -> None:
    changed = train_on_attacked_images(build_seeded(Finetune(weights=str(path), size=32)))
    unchanged = {name for name, is_changed in changed.items() if not is_changed}
    assert {name.rpartition(".")[2] for name in unchanged} == {"mean", "deviation"}, "of the normalisation"


def test_weights_are_identified_by_their_content_not_by_their_path(path: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    copy.write_bytes(path.read_bytes())
    safetensors.torch.save_file({"fc.weight": torch.zeros(1)}, other)
    first, second, third = (Finetune(weights=str(file)) for file in (path, copy, other))
    assert canonical_text(first) == canonical_text(second) != canonical_text(third)
    assert str(tmp_path) not in canonical_text(second)
    assert registry().build("target", f"finetune:weights={copy},content={first.content[:6]}") == second


def test_torch_files_are_refused_with_a_command_that_converts_them(tmp_path: Path) -> None:
    torch_file = tmp_path / "its weights.pth"
    torch.save({"conv1.weight": torch.rand(4, 2).T}, torch_file)
    with pytest.raises(UserError, match=r"linear-probe: .* is not a .safetensors file") as error:
        LinearProbe(weights=str(torch_file))
    (message,) = str(error.value).splitlines()
    program, *words = shlex.split(message.partition("a file of torch by: ")[2])
    assert program == "python"
    subprocess.run([sys.executable, *words], check=True)
    converted = safetensors.torch.load_file(torch_file.with_suffix(".safetensors"))
    assert torch.equal(converted["conv1.weight"], torch.load(torch_file, weights_only=True)["conv1.weight"])


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
    ids=["a deeper network", "another stem", "a missing tensor"],
)
def test_weights_of_another_network_are_refused(
    change: dict[str, Tensor | None], expected: str, tmp_path: Path
) -> None:
    changed = {**weights_of_a_trained_network(), **change}
    path = tmp_path / "changed.safetensors"
    safetensors.torch.save_file({name: value for name, value in changed.items() if value is not None}, path)
    with pytest.raises(UserError) as error:
        build_seeded(Finetune(weights=str(path)))
    assert str(error.value) == f"finetune: {path} does not fit resnet18: {expected}"


def test_weights_need_no_head_and_no_counters(tmp_path: Path) -> None:
    weights = {
        name: value
        for name, value in weights_of_a_trained_network().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    path = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(weights, path)
    assert build_seeded(Finetune(weights=str(path), size=32))(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_files_that_are_missing_damaged_or_changed_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match=f"finetune: cannot read {path}: No such file or directory"):
        Finetune(weights=str(path))
    path.write_bytes(b"no weights")
    target = Finetune(weights=str(path))
    with pytest.raises(UserError, match=f"finetune: cannot read {path}: Error while deserializing header"):
        build_seeded(target)
    with pytest.raises(UserError, match=r"has content [0-9a-f]{16}, not 1234"):
        Finetune(weights=str(path), content="1234")
    path.write_bytes(b"others")
    with pytest.raises(UserError, match="has changed since this run began"):
        build_seeded(target)


def test_images_of_two_channels_are_refused(path: Path) -> None:
    with pytest.raises(UserError, match="pretrained networks take images of 1 or 3 channels, not 2"):
        build_seeded(LinearProbe(weights=str(path)), (2, 32, 32))


def test_a_board_of_pretrained_networks_can_be_read_without_the_file_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only training runs, and re-runs of submitted cells, need the file."""
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
        result = CliRunner().invoke(main, words)
        assert result.exit_code == status, result.output
        return result.output

    message = f"target linear-probe needs weights=... (file whose SHA-256 starts with {content})"
    assert call("run", "small.toml", "--workers", "1", status=2) == f"Error: {message}\n"
    call("run", "small.toml", "--workers", "1", "--target", f"linear-probe:weights={file}")
    renamed = file.rename(tmp_path / "elsewhere.safetensors")
    call("run", "small.toml", "--workers", "1")
    assert message in call("run", "small.toml", "--workers", "1", "--seed", "1", status=2)
    for command in ("rank", "site"):
        call(command, "small.toml")
    call("submit", "small.toml", "--noise", "em", "--name", "Ada", "--into", "em.zip")
    verify = ("verify", "em.zip", "--suite", "small.toml", "--rerun", "1", "--workers", "1", "--store", "other")
    assert message in call(*verify, status=1)
    assert "re-run    1 of 1 cells" in call(*verify, "--target", f"linear-probe:weights={renamed}")
