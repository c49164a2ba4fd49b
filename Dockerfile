# The one image of a Tidemark cluster: the official Airflow image, every library at the version of the lock, and the project.
# The encoder's weights are in one of those libraries, so nothing is downloaded when a task runs. No secret is in it.
FROM apache/airflow:slim-3.3.2-python3.11

# PyTorch for CPUs by default (a tenth of the size). For GPUs: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# LightGBM's threads; the slim image may lack it.
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
USER 50000

WORKDIR /opt/airflow
COPY --chown=airflow:0 requirements.txt ./
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$(grep '^torch==' requirements.txt)" \
    && pip install --no-cache-dir --requirement requirements.txt

# Airflow finds dags/ and plugins/ in its home; /opt/airflow is the repository's root here.
COPY --chown=airflow:0 pyproject.toml ./
COPY --chown=airflow:0 dags dags
COPY --chown=airflow:0 plugins plugins
COPY --chown=airflow:0 include include
COPY --chown=airflow:0 dbt_project dbt_project
COPY --chown=airflow:0 docs/runbooks docs/runbooks
COPY --chown=airflow:0 deploy deploy

ENV PYTHONPATH=/opt/airflow \
    TIDEMARK_WORK=/var/tmp/tidemark
# The logs' volume takes over the owner of this folder.
RUN mkdir -p logs "${TIDEMARK_WORK}" && python -m include --help > /dev/null \
    && python -c "import include.models.ranker"

# As in the base image, by number, so that Kubernetes can tell that it is not root. The entry point is the base image's too.
USER 50000
