"""The history of a pool: bounded, nothing forgotten but when exactly, one of several shards."""

from hypothesis import given
from hypothesis import strategies as st

from pseudolabel.pool.history import LONGEST, History, Moment, bounded, together, widened


def moment(index, offered=2, accepted=1, size=1, step=0):
    return Moment(index, offered, accepted, 0, size, size / 2, size / 4, step)


indexes = st.lists(st.integers(0, 10**9), unique=True, max_size=60).map(sorted)


@given(indexes=indexes, longest=st.integers(1, 20))
def test_a_bounded_history_loses_only_when(indexes, longest):
    history = History(moments=tuple(moment(i, offered=n, size=n) for n, i in enumerate(indexes)))
    short = bounded(history, longest)
    assert len(short.moments) <= longest
    assert sum(m.offered for m in short.moments) == sum(m.offered for m in history.moments)
    assert [m.at for m in short.moments] == sorted({i // short.width for i in indexes})
    assert [m.size for m in short.moments[-1:]] == [m.size for m in history.moments[-1:]]


def test_a_history_that_fits_is_left_alone():
    history = History(moments=tuple(moment(i) for i in range(LONGEST)))
    assert bounded(history) == history
    assert bounded(History(moments=(*history.moments, moment(LONGEST)))).width == 2


def test_wider_moments_add_what_happened_and_keep_how_it_ended():
    wide = widened(History(moments=(moment(4, size=3, step=9), moment(5, size=7, step=2), moment(6))), 2)
    assert [m.at for m in wide.moments] == [2, 3]
    assert wide.moments[0] == Moment(2, 4, 2, 0, 7, 3.5, 1.75, 9)


def test_shards_together_keep_what_the_silent_ones_hold():
    one = History(moments=(moment(10, size=5), moment(12, size=6)))
    two = History(width=2, moments=(moment(5, size=100), moment(9, size=101)))
    both = together([one, two])
    assert both.width == 2
    assert [(m.at, m.offered, m.size) for m in both.moments] == [(5, 4, 105), (6, 2, 106), (9, 2, 107)]
    assert together([]) == History()
