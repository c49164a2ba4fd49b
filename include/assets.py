"""The named assets that connect the DAGs. An asset's event says which versions it stands for, in its `extra`."""

from airflow.sdk import Asset

GATED_BEHAVIOUR = Asset(
    name="gated_behaviour",
    uri="tidemark://lake/gated_behaviour",
    group="tidemark",
    extra={"what": "the newest snapshot of the behaviour lake that passed its gate"},
)
PUBLICATION = Asset(
    name="publication",
    uri="tidemark://publications/publication",
    group="tidemark",
    extra={"what": "one consistent set of vectors and recommendation lists"},
)
