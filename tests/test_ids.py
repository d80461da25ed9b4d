"""The ids that we make."""

from __future__ import annotations

import time
import uuid

from cl_server_shared.ids import new_instance_id, new_job_id


def test_a_job_id_is_a_uuid_of_version_7_of_its_moment() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_job_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000

    assert len(set(ids)) == 1000
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122
        assert before <= parsed.int >> 80 <= after


def test_every_random_bit_of_a_job_id_takes_both_values() -> None:
    fixed = 0xF << 76 | 0x3 << 62  # the version, the variant
    random_bits = (2**80 - 1) & ~fixed
    ids = [uuid.UUID(new_job_id()).int for _ in range(200)]

    seen_set = seen_clear = 0
    for value in ids:
        seen_set |= value
        seen_clear |= ~value
    assert seen_set & random_bits == random_bits
    assert seen_clear & random_bits == random_bits


def test_an_instance_id_is_exact_in_json() -> None:
    ids = {new_instance_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(0 <= one < 2**53 for one in ids)
