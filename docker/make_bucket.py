"""Makes the bucket for MLflow's artifacts where there is none; the store and its keys are named in the environment."""

import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

bucket = os.environ["S3_BUCKET"]
store = boto3.client(
    "s3",
    endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"],
    config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 10}),
)
try:
    store.head_bucket(Bucket=bucket)
except ClientError as error:
    if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
        raise
    store.create_bucket(Bucket=bucket)
