"""Properties of claim checks: only the right payload is redeemed, no reference leads elsewhere."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus.errors import ClaimError
from famulus.serialization.claim_check import (
    CLAIMED,
    REFERENCE,
    SHA256,
    SIZE,
    PayloadClaim,
    Receipt,
    checked_in,
    claim_for,
    claim_of,
    is_claim_check,
    is_reference,
)
from famulus.serialization.records import ProducerRecord, RecordCopy

TOPIC = "order-events"
LIMIT = 10_000
payloads = st.binary(max_size=300)
HEADERS = [("ce_id", b"1"), ("content-type", b"application/json")]
DIGEST = "0a" * 32


def read(topic: str = TOPIC, value: bytes | None = CLAIMED, **ours: bytes | str) -> Any:
    """Return a claim check as it is read, with some headers changed or, if None, left out."""
    texts = {"reference": f"{TOPIC}/{DIGEST}", "size": "5", "sha256": DIGEST, **ours}
    headers = [
        *HEADERS,
        *(
            (f"famulus-claim-{n}", v if isinstance(v, bytes) else v.encode())
            for n, v in texts.items()
            if v
        ),
    ]
    return RecordCopy(topic, 0, 0, 0, b"k", value, headers)


@given(payloads, st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,50}", fullmatch=True))
def test_what_was_checked_in_is_claimed(payload: bytes, topic: str) -> None:
    """The reference is the same each time, and the payload may arrive in pieces."""
    record = ProducerRecord(topic, b"k", payload, HEADERS)
    claim = claim_for(topic, payload)
    slim = checked_in(record, claim)
    assert slim == checked_in(replace(record, headers=slim.headers), claim)
    assert (slim.value, list(slim.headers)[:2], slim.key) == (CLAIMED, HEADERS, b"k")
    arrived = RecordCopy(topic, 0, 0, 0, slim.key, slim.value, slim.headers)
    assert is_claim_check(arrived)
    assert claim_of(arrived, LIMIT) == claim
    assert is_reference(claim.reference)
    receipt = Receipt(claim)
    for at in range(0, len(payload), 7):
        receipt.add(memoryview(payload)[at : at + 7])
    assert receipt.payload() == payload


@given(
    st.one_of(
        st.text(),
        st.lists(st.sampled_from([TOPIC, DIGEST, "..", ".", "/", "%2e%2e", "\0", "file:", "//"])),
    )
)
def test_no_other_reference_is_followed(reference: Any) -> None:
    """Only the digest below the name of the topic is accepted: one folder and one file."""
    text = reference if isinstance(reference, str) else "".join(reference)
    record = read(reference=text.encode("utf-8", "surrogatepass") or b"-")
    if text == f"{TOPIC}/{DIGEST}":
        assert claim_of(record, LIMIT).reference == text
    else:
        with pytest.raises(ClaimError):
            claim_of(record, LIMIT)
    if is_reference(text):
        parts = PurePosixPath(text).parts
        assert len(parts) == 2
        assert not {"..", ".", "/", ""} & set(parts)


@pytest.mark.parametrize(
    "forged",
    [
        read(reference=f"../{DIGEST}"),
        read(reference=f"{TOPIC}/../{TOPIC}/{DIGEST}"),
        read(reference=f"/{TOPIC}/{DIGEST}"),
        read(reference="/etc/passwd"),
        read(reference=f"%2e%2e/{DIGEST}"),
        read(reference=f"file:///{TOPIC}/{DIGEST}"),
        read(reference=f"http://127.0.0.1/{TOPIC}/{DIGEST}"),
        read(reference=f"s3://other/{TOPIC}/{DIGEST}"),
        read(reference=f"payments/{DIGEST}"),
        read(reference=f"{TOPIC}/{DIGEST}\n"),
        read(reference=f"{TOPIC}/{DIGEST}\0"),
        read(reference=f"{TOPIC}\\{DIGEST}"),
        read(reference=f"{TOPIC}/{DIGEST.upper()}", sha256=DIGEST.upper()),
        read(reference=f"{TOPIC}/{'b' * 64}"),
        read(topic="..", reference=f"../{DIGEST}"),
        read(topic=".", reference=f"./{DIGEST}"),
        read(topic="a/b", reference=f"a/b/{DIGEST}"),
        read(reference=b""),
        read(reference="٣" * 64),
        read(sha256="0a" * 31),
        read(sha256=b"\xff" * 64),
        read(sha256=b""),
        read(size=b""),
        read(size="-1"),
        read(size="+5"),
        read(size=" 5"),
        read(size="05"),
        read(size="5e3"),
        read(size="٣"),
        read(size=str(LIMIT + 1)),
        read(size="9" * 5000),
        replace(read(), headers=[*read().headers, (REFERENCE, f"{TOPIC}/{DIGEST}".encode())]),
        replace(read(), headers=[*read().headers, (SIZE, b"1")]),
    ],
    ids=range(33),
)
def test_a_forged_claim_is_refused(forged: Any) -> None:
    """The claims have paths, schemes, hosts, other topics, large sizes, and wrong headers."""
    assert is_claim_check(forged)
    with pytest.raises(ClaimError) as caught:
        claim_of(forged, LIMIT)
    assert "passwd" not in str(caught.value)
    assert len(str(caught.value)) < 100


@given(payloads, payloads, st.integers(1, 50))
def test_other_bytes_are_refused(payload: bytes, other: bytes, step: int) -> None:
    """The size is checked as bytes arrive, to limit memory; the digest is checked at the end."""
    receipt = Receipt(claim_for(TOPIC, payload))

    def arrive() -> bytes:
        for at in range(0, len(other), step):
            receipt.add(memoryview(other)[at : at + step])
            assert receipt._size <= len(payload)
        return receipt.payload()

    if other == payload:
        assert arrive() == payload
    else:
        with pytest.raises(ClaimError):
            arrive()


@pytest.mark.parametrize(
    "record",
    [
        read(value=None),
        read(value=b"{}"),
        read(value=b'"famulus-claim"x'),
        replace(read(), headers=HEADERS),
    ],
    ids=["null", "an event", "another value", "no headers of ours"],
)
def test_only_the_value_and_the_headers_together_make_a_claim_check(record: Any) -> None:
    """A tombstone stays one, and an event that passes on such headers stays an event."""
    assert not is_claim_check(record)


def test_a_claim_says_which_blob() -> None:
    assert PayloadClaim("t", DIGEST, 1).reference == f"t/{DIGEST}"
    assert dict(
        checked_in(ProducerRecord("t", None, b"x"), PayloadClaim("t", DIGEST, 1)).headers
    ) == {
        REFERENCE: f"t/{DIGEST}".encode(),
        SIZE: b"1",
        SHA256: DIGEST.encode(),
    }
