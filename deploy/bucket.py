"""Makes the bucket of `TIDEMARK_HOME`, where it is not there yet: `python -m deploy.bucket`."""

from typing import Any

from include.settings import load


def make_bucket() -> None:
    """Make it by the settings' own access.

    Raises:
        OSError: the store refused.
    """
    settings = load()
    home: Any = settings.home
    bucket = home.parts[0].strip("/")
    if home.fs.exists(bucket):
        return
    region = settings.object_store.region
    # The first region of S3 has no name here.
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    home.fs.call_s3("create_bucket", Bucket=bucket, **where)
    print(f"bucket {bucket}: made")


if __name__ == "__main__":
    make_bucket()
