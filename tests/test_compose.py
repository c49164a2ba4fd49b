"""The compose file: compose reads it, no secret has a default, and what it says is what Airflow and Tidemark understand."""

import os
import re
import stat
import subprocess

import pytest
import yaml
from cryptography.fernet import Fernet

from include.settings import REPOSITORY, Settings
from tests import compose

SECRETS = sorted(name for name, value in compose.variables(compose.EXAMPLE).items() if not value)
COMPOSES_OWN = {"COMPOSE_PROJECT_NAME"}
ONCE = {"airflow-init"}  # ends by itself


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    return compose.services(compose.new_env(tmp_path_factory.mktemp("compose") / "env"))


def test_compose_reads_it(services):
    assert len(services) == 9
    assert {"postgres", "redis", "object-store", "airflow-scheduler", "airflow-worker"} < services.keys()


@pytest.mark.parametrize("name", sorted(compose.variables(compose.EXAMPLE).keys() - COMPOSES_OWN))
def test_compose_refuses_to_start_while_a_variable_is_empty(name, tmp_path):
    answer = compose.config(compose.new_env(tmp_path / "env", **{name: ""}))
    assert answer.returncode != 0
    assert name in answer.stderr


def test_every_variable_is_in_the_example_and_the_reverse():
    used = set(re.findall(r"(?<!\$)\$\{?(\w+)", compose.FILE.read_text()))
    assert used | COMPOSES_OWN == compose.variables(compose.EXAMPLE).keys()


def test_no_secret_has_a_default():
    assert {name for name in compose.variables(compose.EXAMPLE) if re.search("PASSWORD|SECRET|KEY", name)} == set(
        SECRETS
    )
    assert len(SECRETS) == 10
    assert ":-" not in compose.FILE.read_text()
    constant = compose.variables(REPOSITORY / "deploy" / "airflow.env")
    assert not [name for name in constant if re.search("PASSWORD|SECRET|KEY|CONN|URL", name)]


def test_new_secrets_are_strong_distinct_and_private(tmp_path):
    file = compose.new_env(tmp_path / "env")
    made = compose.variables(file)
    assert len({made[name] for name in SECRETS}) == len(SECRETS)
    assert all(re.fullmatch(r"[A-Za-z0-9_=-]{44,}", made[name]) for name in SECRETS)
    Fernet(made["AIRFLOW_FERNET_KEY"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = subprocess.run(
        ["sh", REPOSITORY / "deploy" / "new_env.sh", file], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert compose.variables(file) == made


def test_images_are_pinned(services):
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert tag != service["image"], name
        assert tag == "local" if name.startswith("airflow-") else re.fullmatch(r"\d+\.\d+[\w.-]*", tag), name
    base = re.search("^FROM (.+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)[1]
    locked = re.search("^apache-airflow==(.+)$", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)[1]
    assert base == f"apache/airflow:slim-{locked}-python3.11"


def test_whatever_runs_on_is_watched_and_started_again(services):
    for name in services.keys() - ONCE:
        assert services[name]["healthcheck"]["test"], name
        assert services[name]["restart"] == "unless-stopped", name
    for name in ONCE:
        assert "healthcheck" not in services[name]


def test_only_the_ui_is_published_and_on_loopback_alone():
    published = {
        name: [str(port) for port in service.get("ports", [])]
        for name, service in yaml.safe_load(compose.FILE.read_text())["services"].items()
        if service.get("ports")
    }
    assert published.keys() == {"airflow-api-server"}
    assert all(port.startswith("127.0.0.1:") for port in published["airflow-api-server"])


def test_every_airflow_service_has_the_same_settings(services):
    airflow = [service["environment"] for name, service in services.items() if name.startswith("airflow-")]
    names = set.intersection(*({f"{k}={v}" for k, v in environment.items()} for environment in airflow))
    extra = {name for environment in airflow for name, value in environment.items() if f"{name}={value}" not in names}
    assert extra == {"AIRFLOW_ADMIN_USER", "AIRFLOW_ADMIN_PASSWORD", "DUMB_INIT_SETSID"}
    constant = compose.variables(REPOSITORY / "deploy" / "airflow.env")
    assert {f"{name}={value}" for name, value in constant.items()} < names


def test_airflow_knows_every_option(services):
    from airflow.configuration import conf

    for name in services["airflow-worker"]["environment"]:
        if name.startswith("AIRFLOW__"):
            section, option = name.removeprefix("AIRFLOW__").lower().split("__")
            assert option in conf.configuration_description[section]["options"], name


def test_tidemark_takes_every_setting(services, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TIDEMARK_")]:
        monkeypatch.delenv(name)
    given = {k: v for k, v in services["airflow-worker"]["environment"].items() if k.startswith("TIDEMARK_")}
    for name, value in given.items():
        assert name.removeprefix("TIDEMARK_").split("__")[0].lower() in Settings.model_fields, name
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert str(settings.home) == "s3://tidemark/home"
    assert str(settings.work) == given["TIDEMARK_WORK"]


def test_the_image_holds_what_the_project_runs_on():
    copied = {
        source
        for line in (REPOSITORY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
        for source in line.split()[2:-1]
    }
    assert all((REPOSITORY / source).exists() for source in copied)
    assert {"include", "dags", "plugins", "dbt_project", "docs/runbooks", "deploy"} <= copied
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*", "only what is named goes to the engine"
    assert {source.split("/")[0] for source in copied} == {line[1:] for line in ignored if line.startswith("!")} - {
        "docs/runbooks"
    }


def test_kubernetes_gets_the_same_settings(services):
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    for name in services["airflow-worker"]["environment"].keys() - {"TIDEMARK_WORK"}:
        if name.startswith("TIDEMARK_"):
            assert f"--from-literal={name}=" in page
    values = yaml.safe_load((REPOSITORY / "deploy" / "kubernetes" / "values.yaml").read_text())
    init = yaml.safe_load((REPOSITORY / "deploy" / "kubernetes" / "init.yaml").read_text())
    assert f"apache-airflow=={values['airflowVersion']}\n" in (REPOSITORY / "requirements.txt").read_text()
    image = values["images"]["airflow"]
    container = init["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"{image['repository']}:{image['tag']}"
    assert container["args"] == services["airflow-init"]["command"]
    assert not values["createUserJob"]["enabled"], "the chart's default user has a known password"
