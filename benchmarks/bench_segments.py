"""Whether users without a history are better served by what their segment likes, on the data of a home.

As of cuts in the past, for users whose first interaction lies in the window behind the cut: NDCG@10 of what was popular overall, and
of what was popular in their segment, shrunk to it with several values of `TIDEMARK_COLD_START__SEGMENT_EVIDENCE`. Attributes of
users are those of today: the lake keeps no earlier ones.

    TIDEMARK_HOME=… python -m benchmarks.bench_segments --by gender --by age,gender --every 7 --cuts 12
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from include import settings as settings_of
from include.models.candidates import shrunk
from include.models.interests import MICROSECONDS_PER_DAY
from include.models.metrics import ndcg
from include.settings import Settings
from include.stores import behaviour, lake

EVIDENCE = (1.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
K = 10


def read(settings: Settings, names: list[str]) -> dict[str, NDArray[np.generic]]:
    """Every interaction: user, item and segment as numbers (segment -1 for none), and its day, in order of time."""
    with lake.connect(settings) as connection:
        found = connection.execute(
            f"""
            WITH members AS (SELECT user_id, {behaviour.segment(names)} AS segment FROM lake.main.dim_users)
            SELECT dense_rank() OVER (ORDER BY user_id) - 1 AS u, dense_rank() OVER (ORDER BY item_id) - 1 AS i,
                   if(segment IS NULL, -1, dense_rank() OVER (ORDER BY segment NULLS LAST) - 1) AS g, event_ts
            FROM lake.main.fct_interactions LEFT JOIN members USING (user_id)
            WHERE excluded_at IS NULL ORDER BY event_ts, event_key
            """
        ).fetchnumpy()
    day = found["event_ts"].astype("datetime64[us]").astype(np.int64) / MICROSECONDS_PER_DAY
    return {"user": found["u"], "item": found["i"], "segment": found["g"], "day": day}


def judged(
    done: dict[str, NDArray[np.generic]], cut: float, days: float, half_life: float, evidence: float | None
) -> list[float]:
    """NDCG@10 for each user whose first interaction lies in the window; without evidence of the overall popularity."""
    user, item, segment, day = (done[name] for name in ("user", "item", "segment", "day"))
    past, then, n = day < cut, (day >= cut) & (day < cut + days), int(item.max()) + 1
    weight = np.exp2(-(cut - day[past]) / half_life)
    overall = np.bincount(item[past], weight, n)
    found = []
    for group in np.unique(segment[then]):
        mine = segment[past] == group
        own = np.bincount(item[past][mine], weight[mine], n)
        counts = overall if evidence is None or group < 0 else shrunk(own, overall, evidence)
        best = np.lexsort((np.arange(n), -counts))[:K]
        for each in np.setdiff1d(np.unique(user[then & (segment == group)]), user[past]):
            wanted = np.unique(item[then & (user == each)])
            found.append(float(ndcg(np.isin(best, wanted)[None], np.array([len(wanted)]))[0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--by", action="append", required=True, help="attributes, with commas between; may be repeated")
    parser.add_argument("--every", type=float, default=7.0, help="days of a window")
    parser.add_argument("--cuts", type=int, default=12)
    arguments = parser.parse_args()
    settings = settings_of.load()
    half_life = settings.surfaces[0].popularity_half_life_days
    for by in arguments.by:
        done = read(settings, by.split(","))
        end = float(done["day"].max())
        cuts = [end - arguments.every * number for number in range(arguments.cuts, 0, -1)]
        for evidence in (None, *EVIDENCE):
            values = [value for cut in cuts for value in judged(done, cut, arguments.every, half_life, evidence)]
            label = "overall" if evidence is None else f"evidence {evidence:g}"
            print(f"{by}  {label:<15}  NDCG@{K} {np.mean(values):.4f}  {len(values)} users", flush=True)


if __name__ == "__main__":
    main()
