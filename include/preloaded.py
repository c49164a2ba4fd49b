"""What tasks import, loaded once by the process that they are forked from: imports were most of an hourly run.

Libraries alone, and none that starts a Python thread when it is imported, as LanceDB does: of it only what takes most of its time
is here. numpy, Arrow and DuckDB start native ones, which tasks have been seen to do without. DAGs and steps are read by each task, so that a change of the code needs no restart.
"""

import gc
from importlib import import_module

from airflow.sdk.plugins_manager import integrate_macros_plugins

LIBRARIES = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "dbt.adapters.duckdb",
    "dbt.cli.main",
    "duckdb",
    "great_expectations",
    "lance_namespace",
    "lightgbm",
    "pyarrow.dataset",
    "scipy.sparse",
    "torch",
    "transformers",
)

for library in LIBRARIES:
    import_module(library)
integrate_macros_plugins()  # it looks through all that is installed, and remembers

# A task that looked for garbage among all this would copy it.
gc.collect()
gc.freeze()
