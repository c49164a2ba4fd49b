"""Where a home may be, and what is said of settings that cannot be."""

from pathlib import Path

import pytest

from include.errors import BadInput
from include.settings import REPOSITORY, Encoder, Settings, load
from include.stores import postgres

CLUSTER = {
    "TIDEMARK_HOME": "s3://tidemark/shop/home",
    "TIDEMARK_LAKE_CATALOGUE": "postgresql://lake:secret-one@db:5432/shop?sslmode=require",
    "TIDEMARK_OBJECT_STORE__ENDPOINT": "http://objectstore:8333",
    "TIDEMARK_OBJECT_STORE__KEY_ID": "key",
    "TIDEMARK_OBJECT_STORE__SECRET": "secret-two",
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_home_on_an_object_store_names_its_parts_as_a_folder_does(cluster: pytest.MonkeyPatch) -> None:
    settings = load()
    assert str(settings.publications / "serving.json") == "s3://tidemark/shop/home/publications/serving.json"
    assert settings.work.is_relative_to(REPOSITORY / ".tidemark" / "work")
    assert settings.hash == Settings(home=Path("home"), lake_catalogue=None).hash, (
        "a result does not depend on its place"
    )
    cluster.setenv("TIDEMARK_HOME", "s3://tidemark/another")
    assert load().work != settings.work


def test_a_result_does_not_depend_on_what_machine_makes_it(tmp_path: Path) -> None:
    usual = Settings(home=tmp_path)
    assert Settings(home=tmp_path, encoder=Encoder(threads=1, tokens_per_batch=100)).hash == usual.hash
    assert Settings(home=tmp_path, encoder=Encoder(pooling="cls")).hash != usual.hash


def test_a_copy_has_a_hash_of_its_own(tmp_path: Path) -> None:
    usual = Settings(home=tmp_path)
    before = usual.hash  # cached from here on
    assert usual.model_copy(update={"seed": 7}).hash == Settings(home=tmp_path, seed=7).hash != before
    assert usual.beside(tmp_path / "beside").hash == before


def test_a_folder_keeps_its_scratch_inside(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).work == tmp_path / "cache"
    assert Settings(home=tmp_path, work=tmp_path / "w").work == tmp_path / "w"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://lake:p%27w@db:5433/shop?sslmode=require",
        r"postgres:host=db port=5433 dbname=shop user=lake password='p\'w' sslmode=require",
    ],
)
def test_both_forms_of_a_catalogue_are_read(text: str, tmp_path: Path) -> None:
    found = postgres.parameters(Settings(home=tmp_path, lake_catalogue=text))
    expected = {"host": "db", "port": "5433", "dbname": "shop", "user": "lake", "password": "p'w", "sslmode": "require"}
    assert found == expected


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HOME", "gs://tidemark/home", "TIDEMARK_HOME: .*s3://BUCKET/PREFIX"),
        ("HOME", "s3://tidemark//home", "TIDEMARK_HOME: .*s3://BUCKET/PREFIX"),
        ("OBJECT_STORE__SECRET", None, "TIDEMARK_HOME: .*OBJECT_STORE__KEY_ID"),
        ("OBJECT_STORE__ENDPOINT", "objectstore:8333", "TIDEMARK_OBJECT_STORE__ENDPOINT"),
        ("LAKE_CATALOGUE", None, "TIDEMARK_LAKE_CATALOGUE: .*Postgres"),
        ("EARLIEST_EVENT", "2020-02-30", "TIDEMARK_EARLIEST_EVENT: .*day is out of range"),
        ("LAKE_CATALOGUE", "mysql://secret-one@db", "TIDEMARK_LAKE_CATALOGUE: .*postgresql://"),
        ("RETENTION__DAYS", "1000000", "TIDEMARK_RETENTION__DAYS: .*365000"),
        ("RETENTION__GRACE_HOURS", "inf", "TIDEMARK_RETENTION__GRACE_HOURS: "),
        ("COLD_START__NEW_ITEM_DAYS", "1000000", "TIDEMARK_COLD_START__NEW_ITEM_DAYS: .*365000"),
        ("INTERESTS__USER_TEXT_WEIGHT", "inf", "TIDEMARK_INTERESTS__USER_TEXT_WEIGHT: .*finite"),
        ("SURFACES", '[{"name": "home", "popularity": NaN}]', r"TIDEMARK_SURFACES\[0\]\.popularity: .*finite"),
        ("SEED", "-1", "TIDEMARK_SEED: .*0"),
        ("SEED", "4294967296", "TIDEMARK_SEED: .*4294967296"),
    ],
)
def test_unusable_settings_are_refused_at_start(
    cluster: pytest.MonkeyPatch, name: str, value: str | None, said: str
) -> None:
    if value is None:
        cluster.delenv(f"TIDEMARK_{name}")
    else:
        cluster.setenv(f"TIDEMARK_{name}", value)
    with pytest.raises(BadInput, match=said) as caught:
        load()
    assert "secret-" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TIDEMARK_HOEM", "TIDEMARK_HOME"),
        ("TIDEMARK_SEEDS", "TIDEMARK_SEED"),
        ("tidemark_seeds", "TIDEMARK_SEED"),
        ("TIDEMARK_ENCODER_SOURCE", "TIDEMARK_ENCODER__SOURCE"),
        ("TIDEMARK_INTREST__MOST", "TIDEMARK_INTERESTS__MOST"),
        ("TIDEMARK_XYZ", None),
    ],
)
def test_an_unknown_setting_is_refused_and_the_nearest_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str | None
) -> None:
    monkeypatch.setenv(name, "a secret")
    with pytest.raises(BadInput, match=f"{name} is unknown{f': is {meant} meant' if meant else ' .see'}") as caught:
        load()
    assert "a secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "IMAGE",
        # The Helm chart's release `tidemark` has services, which Kubernetes names to every pod.
        "API_SERVER_SERVICE_HOST",
        "API_SERVER_SERVICE_PORT",
        "API_SERVER_SERVICE_PORT_API_SERVER",
        "API_SERVER_PORT",
        "API_SERVER_PORT_8080_TCP",
        "API_SERVER_PORT_8080_TCP_ADDR",
        "STATSD_PORT_9125_UDP_PROTO",
        "SERVICE_HOST",
        "PORT",
    ],
)
def test_what_compose_and_kubernetes_name_alike_is_no_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = load()
    monkeypatch.setenv(f"TIDEMARK_{name}", "x")
    assert load() == before


def test_surfaces_that_are_refused_together_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMARK_SURFACES", '[{"name": "home"}, {"name": "home"}]')
    with pytest.raises(BadInput, match=r"^settings: .*two surfaces share a name: \['home', 'home'\]"):
        load()
    monkeypatch.setenv("TIDEMARK_SURFACES", "home")
    with pytest.raises(BadInput, match='"surfaces"'):
        load()


def test_a_catalogue_that_libpq_cannot_read_is_refused_without_being_quoted(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, lake_catalogue="postgres:password=secret-one nonsense")
    with pytest.raises(BadInput, match="libpq") as caught:
        postgres.parameters(settings)
    assert "secret-one" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HOME", "", "setting TIDEMARK_HOME: .* it is empty"),
        ("HOME", __file__, "setting TIDEMARK_HOME: .* is no folder"),
        ("SURFACES", "[]", "setting TIDEMARK_SURFACES: .* at least 1 item"),
        ("SURFACES", '[{"length": 0}]', r"setting TIDEMARK_SURFACES\[0\]\.length: "),
        ("INTERESTS__SHORT_HALF_LIFE_DAYS", "inf", "setting TIDEMARK_INTERESTS__SHORT_HALF_LIFE_DAYS: .* finite"),
    ],
)
def test_what_makes_no_home_or_no_lists_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"TIDEMARK_{name}", value)
    with pytest.raises(BadInput, match=message):
        load()
