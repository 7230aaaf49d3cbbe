"""Judges arrivals: how many fall into one span of time, wherever it starts."""


def most_in_any(stamps, per):
    """The most stamps in any half-open span [x, x + per)."""
    stamps = sorted(stamps)
    most = end = 0
    for begin, first in enumerate(stamps):
        while end < len(stamps) and stamps[end] - first < per:
            end += 1
        most = max(most, end - begin)
    return most
