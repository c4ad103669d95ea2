"""The bounds, and the sums that relate them."""

from store import limits as x
from store.content.segment import HEADER_BYTES as CONTENT_HEADER_BYTES
from store.frame import HEADER_BYTES, padded


def test_a_frame_fits_where_it_goes() -> None:
    assert padded(HEADER_BYTES) == x.BLOCK
    assert x.GENERATION_BYTES_MAX % x.GENERATION_GROW_BYTES == 0
    assert x.GENERATION_GROW_BYTES % x.BLOCK == 0
    assert x.FRAME_BYTES_MAX > x.GENERATION_BYTES_MAX  # a larger frame has a generation of its own


def test_content_frames_are_aligned_and_a_size_fits_its_field() -> None:
    assert CONTENT_HEADER_BYTES % x.CONTENT_ALIGN == 0
    assert x.SEGMENT_BYTES_MAX % x.CONTENT_ALIGN == 0
    assert x.CONTENT_BYTES_MAX < 1 << 31
    assert x.SEGMENT_GROW_BYTES % (4 * x.DIRECT_ALIGN) == 0
    assert x.SEGMENT_GROW_BYTES * 2 <= x.STAGE_BYTES  # content and zeros are one write


def test_a_verbs_items_fit_into_a_group() -> None:
    assert x.ITEMS_PER_VERB_MAX <= x.GROUP_ITEMS_MAX


def test_the_records_of_a_group_fit_into_a_frame() -> None:
    """In all but absurd cases: an item's row with two keywords and two properties is about 250 bytes."""
    assert x.GROUP_ITEMS_MAX * 1024 <= x.FRAME_BYTES_MAX
    assert x.SETTING_BYTES_MAX * 2 < x.FRAME_BYTES_MAX


def test_a_group_fits_into_the_queue_and_memory_is_bounded() -> None:
    assert x.GROUP_BYTES_MAX <= x.QUEUE_BYTES_MAX
    waiting = x.QUEUE_BYTES_MAX + 2 * x.GROUP_BYTES_MAX
    pages = x.READERS * (x.FETCH_BYTES_MAX + x.READ_CACHE_BYTES) + x.READ_CACHE_BYTES + x.COMMIT_CACHE_BYTES
    buffers = (x.READERS + 1) * x.STAGE_BYTES
    assert waiting + pages + buffers <= 96 * x.MIB


def test_files_that_are_open_are_bounded() -> None:
    assert x.READERS * x.OPEN_SEGMENTS_MAX + 2 * x.LEASES_MAX + 16 < 256


def test_the_log_that_is_kept_is_more_than_one_generation() -> None:
    assert x.CHECKPOINT_LOG_BYTES >= 2 * x.GENERATION_BYTES_MAX
    assert x.CHECKPOINTS_KEPT == 2


def test_keys_outlive_the_queue_of_an_mta() -> None:
    assert x.DELIVERY_KEYS_KEPT_S > 5 * 86_400  # RFC 5321 §4.5.4.1
