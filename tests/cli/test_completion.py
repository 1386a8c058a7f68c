"""What a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.shell_completion import BashComplete

from uebench.cli.main import main
from uebench.planning.suite_file import available_suites


def completed(words: list[str], incomplete: str) -> list[str]:
    complete = BashComplete(main, {}, "uebench", "_UEBENCH_COMPLETE")
    return [item.value for item in complete.get_completions(words, incomplete)]


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        (["run", "--noise"], "em-", ["em-classwise", "em-rem"]),
        (["run", "--noise"], "rem:adv_r", ["rem:adv_radius="]),
        (["run", "--noise"], "rem:steps=5,dr", ["rem:steps=5,draws="]),
        (["run", "--noise"], "nothing:", []),
        (["run", "--breaker"], "lowpass-mean+adv-l", [f"lowpass-mean+adv-{norm}" for norm in ("l1", "l2", "linf")]),
        (["run", "--breaker"], "jpeg+adv-linf:radiu", ["jpeg+adv-linf:radius="]),
        (["run", "--target"], "resnet1", ["resnet18", "resnet18-imagenet"]),
        (["run"], "demo-", ["demo-pretrained", "demo-vit"]),
        (["rank"], "cifar10-f", ["cifar10-fast"]),
        (["plugins"], "smallc", ["smallcnn"]),
        (["check"], "adv-li", ["adv-linf"]),
    ],
)
def test_a_shell_completes_suites_components_and_parameters(
    words: list[str], incomplete: str, expected: list[str]
) -> None:
    assert completed(words, incomplete) == expected


def test_every_suite_is_offered() -> None:
    assert completed(["run"], "") == sorted(available_suites())


def test_the_command_of_the_readme_gives_a_script() -> None:
    command = [sys.executable, "-m", "uebench"]
    environment = {**os.environ, "_UEBENCH_COMPLETE": "bash_source"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['uebench']; from uebench.cli import script; script()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "_uebench_completion" in done.stdout
    assert subprocess.run([*command, "--version"], capture_output=True, check=True).stdout
