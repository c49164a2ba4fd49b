"""Users whose interests move on a known day: behaviour to measure with, as files ready to land.

Items belong to topics, and their texts are words of the topic. A user likes one topic until the day of the drift, and
another from then on; what a user does follows the topic of the moment, else what is popular. The drift days stand in the
users' attributes (`drift_at`), so that a benchmark can tell before from after.

    python -m benchmarks.simulator --users 1000 --items 500 --events 50000 --out DIR
"""

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 90
TOPICS = 40
ON_TOPIC = 0.8  # share of what a user does that follows the interest of the moment
EVENT_TYPES = ("view", "like", "purchase")
SHARES = (0.8, 0.12, 0.08)
SYLLABLES = ("ka", "lo", "mi", "ru", "ten", "sa", "vel", "dor", "ni", "pa", "shu", "bri", "ost", "en", "gal", "fi")


def simulate(users: int, items: int, events: int, seed: int = 0) -> dict[str, pa.Table]:
    """Canonical tables `events`, `items` and `users`.

    Args:
        users, items: how many; every id occurs in its table, a rare item perhaps in no event.
        events: how many rows; a user's share of them is log-normal, an item's follows Zipf's law within its topic.
        seed: the same arguments give the same rows.
    """
    rng = np.random.default_rng(seed)
    topic_of_item = np.arange(items) % TOPICS
    first, second = rng.integers(0, TOPICS, users), rng.integers(0, TOPICS, users)
    drift = rng.uniform(0.3, 0.9, users) * DAYS * 86_400

    activity = rng.lognormal(0.0, 1.0, users)
    user = rng.choice(users, events, p=activity / activity.sum())
    moment = np.sort(rng.uniform(0, DAYS * 86_400, events))
    topic = np.where(moment < drift[user], first[user], second[user])
    topic = np.where(rng.random(events) < ON_TOPIC, topic, rng.integers(0, TOPICS, events))
    # The rank within a topic, by the inverse of a continuous Zipf law; then the item of that rank.
    in_topic = np.bincount(topic_of_item, minlength=TOPICS)[topic]
    rank = np.minimum(in_topic - 1, np.exp(rng.random(events) * np.log(in_topic + 1)).astype(np.int64) - 1)
    item = rank * TOPICS + topic

    def ids(prefix: str, numbers: np.ndarray) -> pa.Array:
        return pa.array(np.char.add(prefix, numbers.astype(str)), pa.string())

    def times(seconds: np.ndarray) -> pa.Array:
        micros = (seconds * 1e6).astype(np.int64) + int(START.timestamp()) * 1_000_000
        return pa.array(micros, pa.timestamp("us", tz="UTC"))

    words = np.array(["".join(rng.choice(SYLLABLES, 3)) for _ in range(TOPICS * 30)]).reshape(TOPICS, 30)
    titles = [" ".join(rng.choice(words[topic], 4)) for topic in topic_of_item]
    texts = [" ".join(rng.choice(words[topic], 12)) for topic in topic_of_item]
    return {
        "events": pa.table(
            {
                "event_id": ids("e", np.arange(events)),
                "user_id": ids("u", user),
                "item_id": ids("i", item),
                "event_type": pa.array(rng.choice(EVENT_TYPES, events, p=SHARES), pa.string()),
                "event_ts": times(moment),
            }
        ),
        "items": pa.table(
            {
                "item_id": ids("i", np.arange(items)),
                "title": pa.array(titles),
                "description": pa.array(texts),
                "categories": pa.array([[f"topic {topic}"] for topic in topic_of_item]),
                "available_from": times(np.zeros(items)),
            }
        ),
        "users": pa.table(
            {
                "user_id": ids("u", np.arange(users)),
                "drift_at": pa.array(
                    [(START + timedelta(seconds=float(seconds))).isoformat() for seconds in drift], pa.string()
                ),
            }
        ),
    }


def write(tables: dict[str, pa.Table], out: Path) -> Path:
    """Write the tables as Parquet files that `land` takes as they are; returns the folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, out / f"{name}.parquet")
    return out


def main() -> None:
    """Write one simulated data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"users": 1_000, "items": 500, "events": 50_000, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write events, items and users to")
    arguments = parser.parse_args()
    tables = simulate(arguments.users, arguments.items, arguments.events, arguments.seed)
    write(tables, arguments.out)
    print(f"{arguments.out}: " + ", ".join(f"{table.num_rows:,} {name}" for name, table in tables.items()))


if __name__ == "__main__":
    main()
