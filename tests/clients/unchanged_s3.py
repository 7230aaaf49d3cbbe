"""Asks an origin for a list of buckets with botocore, which boto3 and the AWS command line use.

usage: unchanged_s3.py BASE
"""

import sys

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

once = Config(retries={"max_attempts": 1})
keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
client = botocore.session.get_session().create_client(
    "s3", region_name="eu-central-1", endpoint_url=sys.argv[1], config=once, **keys
)
try:
    client.list_buckets()
except (BotoCoreError, ClientError) as error:
    print(error)
