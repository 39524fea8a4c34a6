"""The AWS API by boto3, for tests: the client that others run, not the SDK that Daypass is built with.

Each line on standard input is one call, as JSON, and each line on standard output its answer:

    {"endpoint": "http://127.0.0.1:1", "service": "iam", "method": "create_role", "arguments": {…},
     "key": "…", "secret": "…", "token": null}
    -> {"result": {…}}                                       streams as text, times as ISO 8601
    -> {"error": {"code": "AccessDenied", "message": "…", "status": 403}}

A call without "key" goes unsigned. It ends when standard input does, so it never outlives its test.
"""

import datetime
import json
import sys

import botocore
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

REGION = "us-east-1"
session = botocore.session.get_session()


def client(call):
    config = Config(
        # A refusal is what tests look at: no second try hides it.
        retries={"total_max_attempts": 1},
        # Sessions of a second, names that AWS would refuse: the server shall judge them.
        parameter_validation=False,
        connect_timeout=5,
        read_timeout=20,
        s3={"addressing_style": "path"},
        **({} if call.get("key") else {"signature_version": botocore.UNSIGNED}),
    )
    return session.create_client(
        call["service"],
        region_name=REGION,
        endpoint_url=call["endpoint"],
        aws_access_key_id=call.get("key"),
        aws_secret_access_key=call.get("secret"),
        aws_session_token=call.get("token"),
        config=config,
    )


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "read"):
        return value.read().decode()
    raise TypeError(f"no JSON for {type(value)}")


def answer(call):
    try:
        result = getattr(client(call), call["method"])(**call["arguments"])
    except ClientError as refused:
        error = refused.response["Error"]
        status = refused.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return {"error": {"code": error.get("Code"), "message": error.get("Message"), "status": status}}
    except Exception as failed:  # No connection, a wrong argument: whoever asked shall see it.
        return {"failed": f"{type(failed).__name__}: {failed}"}
    result.pop("ResponseMetadata", None)
    return {"result": result}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line)), default=plain), flush=True)
