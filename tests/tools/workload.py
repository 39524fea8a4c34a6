"""The SPIFFE Workload API by py-spiffe, for tests: a library that others run, not the code that Daypass is built with.

The socket is in SPIFFE_ENDPOINT_SOCKET, as workloads have it. Each line on standard input is one order, as JSON, and each line on
standard output its answer:

    {"op": "svid"}                                     -> {"result": {"spiffe_id": …, "serial": hex, "chain": [base64 DER, …]}}
    {"op": "bundles"}                                  -> {"result": {"example.org": [base64 DER, …]}}
    {"op": "jwt", "audience": […], "subject": null}    -> {"result": {"spiffe_id": …, "token": …, "expiry": seconds}}
    {"op": "jwt_bundles"}                              -> {"result": {"example.org": ["kid", …]}}
    {"op": "validate", "token": …, "audience": …}      -> {"result": {"spiffe_id": …}}      the agent's word
    {"op": "verify", "token": …, "audience": …}        -> {"result": {"spiffe_id": …}}      by the bundle that the agent gave
    {"op": "follow"}                                   -> {"result": null}                  opens the library's X509Source
    {"op": "current"}                                  -> {"result": {"svid": …, "bundles": …, "updates": n}}
    -> {"error": {"kind": "FetchX509SvidError", "code": "PERMISSION_DENIED", "message": "…"}}

It ends when standard input does, so it never outlives its test.
"""

import base64
import json
import sys

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spiffe import JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError

# No order may wait for longer: what takes longer has failed.
TIMEOUT = 15.0

following = {"source": None, "updates": 0}


def der(certificate):
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


def spki(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def shown_svid(svid):
    if spki(svid.leaf.public_key()) != spki(svid.private_key.public_key()):
        raise ValueError("the key is not the certificate's")
    serial = svid.leaf.serial_number
    return {
        "spiffe_id": str(svid.spiffe_id),
        "serial": serial.to_bytes((serial.bit_length() + 7) // 8, "big").hex(),
        "chain": [der(certificate) for certificate in svid.cert_chain],
    }


def shown_bundles(bundles):
    return {bundle.trust_domain.name: sorted(der(ca) for ca in bundle.x509_authorities) for bundle in bundles}


def updated():
    following["updates"] += 1


def follow():
    following["source"] = source = X509Source(timeout_in_seconds=TIMEOUT)
    source.subscribe_for_updates(updated)


def current():
    context = following["source"].get_x509_context()
    svid, bundles = shown_svid(context.default_svid), shown_bundles(context.x509_bundle_set.bundles)
    return {"svid": svid, "bundles": bundles, "updates": following["updates"]}


def verify(client, token, audience):
    domain = JwtSvid.parse_insecure(token, {audience}).spiffe_id.trust_domain
    bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(TrustDomain(domain.name))
    return {"spiffe_id": str(JwtSvid.parse_and_validate(token, bundle, {audience}).spiffe_id)}


def jwt(client, audience, subject):
    svid = client.fetch_jwt_svid(set(audience), SpiffeId(subject) if subject else None)
    return {"spiffe_id": str(svid.spiffe_id), "token": svid.token, "expiry": svid.expiry}


def result(client, order):
    op = order["op"]
    if op == "svid":
        return shown_svid(client.fetch_x509_svid())
    if op == "bundles":
        return shown_bundles(client.fetch_x509_bundles().bundles)
    if op == "jwt":
        return jwt(client, order["audience"], order["subject"])
    if op == "jwt_bundles":
        return {bundle.trust_domain.name: sorted(bundle.jwt_authorities) for bundle in client.fetch_jwt_bundles().bundles}
    if op == "validate":
        return {"spiffe_id": str(client.validate_jwt_svid(order["token"], order["audience"]).spiffe_id)}
    if op == "verify":
        return verify(client, order["token"], order["audience"])
    if op == "follow":
        return follow()
    if op == "current":
        return current()
    raise ValueError(f"no such order: {op}")


def code_of(error):
    while error is not None:
        if isinstance(error, grpc.Call):
            return error.code().name
        error = error.__cause__
    return None


def answer(client, order):
    try:
        return {"result": result(client, order)}
    except PySpiffeError as error:
        return {"error": {"kind": type(error).__name__, "code": code_of(error), "message": str(error)}}
    except Exception as failed:  # Whoever ordered shall see it.
        return {"failed": f"{type(failed).__name__}: {failed}"}


with WorkloadApiClient(default_timeout=TIMEOUT) as api:
    for line in sys.stdin:
        print(json.dumps(answer(api, json.loads(line))), flush=True)
