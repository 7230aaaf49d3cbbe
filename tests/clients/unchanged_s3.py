"""Asks an origin for a list of buckets with boto3, whose botocore the AWS command line uses too.

usage: unchanged_s3.py BASE
"""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

once = Config(retries={"max_attempts": 1})
keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
client = boto3.client("s3", region_name="eu-central-1", endpoint_url=sys.argv[1], config=once, **keys)
try:
    client.list_buckets()
except (BotoCoreError, ClientError) as error:
    print(error)
