"""ray_cluster.yaml is what the installed Ray takes, and what docs/cluster.md says of it holds. No network, no credentials."""

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

util = pytest.importorskip("ray.autoscaler._private.util")

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ray_cluster.yaml").read_text(encoding="utf-8")


@pytest.fixture
def cluster() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TEXT)
    return found


def commands(config: dict[str, Any]) -> list[str]:
    return [command for name, value in config.items() if name.endswith("_commands") for command in value]


def test_it_is_valid_for_the_installed_ray(cluster: dict[str, Any]) -> None:
    prepared = util.prepare_config(copy.deepcopy(cluster))
    util.validate_config(prepared)
    assert prepared["head_setup_commands"][: len(cluster["setup_commands"])] == cluster["setup_commands"]
    assert prepared["worker_setup_commands"] == cluster["setup_commands"]


def test_the_check_can_fail(cluster: dict[str, Any]) -> None:
    import jsonschema

    cluster["idle_minutes"] = 5
    with pytest.raises(jsonschema.ValidationError):
        util.validate_config(util.prepare_config(cluster))


def test_the_head_runs_no_units_and_spot_workers_scale_to_zero(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["type"] == "aws"
    head, worker = (cluster["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert cluster["head_node_type"] == "head" and head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert worker["min_workers"] == 0 < worker["max_workers"] <= cluster["max_workers"]
    assert worker["resources"]["GPU"] == 1
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_it_is_closed(cluster: dict[str, Any]) -> None:
    starts = [command for command in commands(cluster) if "ray start" in command]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in next(command for command in starts if "--head" in command)
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not re.search(r"0\.0\.0\.0", TEXT)


def test_what_ray_start_is_given_exists(cluster: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for command in commands(cluster):
        if "ray start" in command:
            words = shlex.split(command.partition("ray start")[2])
            assert {word.partition("=")[0] for word in words} <= known


def test_every_ray_is_that_of_the_environment(cluster: dict[str, Any]) -> None:
    for command in commands(cluster):
        if re.search(r"\bray (start|stop)\b", command):
            assert command.startswith(". ~/textsmooth-env/bin/activate && ")
        if "pip install" in command:
            assert command.startswith("~/textsmooth-env/bin/pip install -q -c ~/textsmooth-dist/constraints.txt ")


def test_its_commands_are_shell(cluster: dict[str, Any]) -> None:
    for command in commands(cluster):
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_what_it_mounts_from_a_clone_is_what_its_head_says_to_make(cluster: dict[str, Any]) -> None:
    assert {source for source in cluster["file_mounts"].values() if source.startswith("./")} == {"./dist"}
    assert "python -m build --wheel" in TEXT and "cp constraints.txt dist/" in TEXT and (ROOT / "constraints.txt").is_file()


def test_every_field_that_a_user_changes_has_a_comment() -> None:
    lines = TEXT.splitlines()
    changed = {"cluster_name", "max_workers", "upscaling_speed", "idle_timeout_minutes", "region", "availability_zone", "use_internal_ips"}
    changed |= {"security_group", "ssh_user", "resources", "InstanceType", "ImageId", "IamInstanceProfile", "Ebs", "min_workers"}
    changed |= {"InstanceMarketOptions"}
    for number, line in enumerate(lines):
        name = line.strip().partition(":")[0]
        if name in changed:
            assert lines[number - 1].strip().startswith("#"), f"line {number + 1}: {line}"
