"""The loops of :mod:`sentiment_model.text.scanner`."""

import numpy as np
from numpy.typing import NDArray

from sentiment_model.compiled import compiled
from sentiment_model.text.alphabet import AMPERSAND, APOSTROPHE, CHARACTER, MARK, OTHER, SPACE, TAG, UNREADABLE, WORD
from sentiment_model.text.tokens import CONTINUES, JOINER, UNKNOWN_ID

_OFFSET, _PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a, 64 bits
_CONTINUES = np.frombuffer(CONTINUES.encode(), dtype=np.uint8)


@compiled
def enter_tokens(slots: NDArray[np.int32], letters: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
    """Enter each token's id by the hash of its letters.

    Args:
        slots: at least twice as many as tokens, a power of two, all zero.
        letters: of all tokens, one after the other, in UTF-8; the first two tokens have none.
        ends: of each token in them.
    """
    for token in range(2, len(ends)):
        hashed = np.uint64(_OFFSET)
        for place in range(ends[token - 1], ends[token]):
            hashed = (hashed ^ np.uint64(letters[place])) * np.uint64(_PRIME)
        slot = _slot(hashed, slots)
        while slots[slot]:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = token


@compiled
def _slot(hashed, slots):
    """Return where to look first: the high bits are the well mixed ones."""
    return np.int64((hashed ^ (hashed >> np.uint64(32))) & np.uint64(len(slots) - 1))


@compiled
def _look_up(spelled, size, slots, letters, ends):
    """Return the id of the token of these bytes."""
    hashed = np.uint64(_OFFSET)
    for place in range(size):
        hashed = (hashed ^ np.uint64(spelled[place])) * np.uint64(_PRIME)
    return _find(hashed, spelled, 0, size, 0, slots, letters, ends)


@compiled
def _find(hashed, spelled, start, end, before, slots, letters, ends):
    """Return the id of the token of these bytes, before which so many of what continues a word stand."""
    slot = _slot(hashed, slots)
    while True:
        token = slots[slot]
        if token == 0:
            return UNKNOWN_ID
        first, size = ends[token - 1], before + end - start
        if ends[token] - first == size:
            place = 0
            while place < size:
                wanted = _CONTINUES[place] if place < before else spelled[start + place - before]
                if letters[first + place] != wanted:
                    break
                place += 1
            if place == size:
                return token
        slot = (slot + 1) & (len(slots) - 1)


@compiled
def _cut_word(spelled, start, end, slots, letters, ends, longest, values, used):
    """Write the ids of a word's pieces, each the longest that is known, and return how many, and how many unknown.

    Characters that are unknown and stand together are one unknown piece.
    """
    first, unknown, was_known = start, 0, True
    while start < end:
        hashed, before = np.uint64(_OFFSET), 0
        if start > first:
            before = len(_CONTINUES)
            for place in range(before):
                hashed = (hashed ^ np.uint64(_CONTINUES[place])) * np.uint64(_PRIME)
        piece, after = UNKNOWN_ID, 0
        last = min(end, start + longest - before)
        place = start
        while place < last or after == 0:
            hashed = (hashed ^ np.uint64(spelled[place])) * np.uint64(_PRIME)
            place += 1
            if place == end or spelled[place] & 0xC0 != 0x80:  # the end of a character
                found = _find(hashed, spelled, start, place, before, slots, letters, ends)
                if found != UNKNOWN_ID or after == 0:
                    piece, after = found, place
        if piece != UNKNOWN_ID or was_known:
            values[used] = piece
            used += 1
            unknown += piece == UNKNOWN_ID
        was_known = piece != UNKNOWN_ID
        start = after
    return used, unknown


@compiled
def cut_words(
    data: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    slots: NDArray[np.int32],
    letters: NDArray[np.uint8],
    ends: NDArray[np.int64],
    longest: int,
    values: NDArray[np.int32],
    lengths: NDArray[np.int64],
) -> int:
    """Write the ids of the pieces of words one after the other, and return how many.

    Args:
        data: UTF-8, in lower case.
        bounds: in it: where each word starts, and where the last one ends.
        slots: see :func:`enter_tokens`.
        letters: the same.
        ends: the same.
        longest: bytes of the longest token.
        values: room for the ids.
        lengths: gets the number of ids of each word.
    """
    used = 0
    for row in range(len(bounds) - 1):
        first = used
        used, _ = _cut_word(data, bounds[row], bounds[row + 1], slots, letters, ends, longest, values, used)
        lengths[row] = used - first
    return used


@compiled
def _decode(data, place):
    """Return the character that starts here, and where the next one does; the bytes are valid UTF-8."""
    byte = np.int64(data[place])
    if byte < 0x80:
        return byte, place + 1
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | (data[place + 1] & 0x3F), place + 2
    if byte < 0xF0:
        return (byte & 0x0F) << 12 | np.int64(data[place + 1] & 0x3F) << 6 | (data[place + 2] & 0x3F), place + 3
    code = (byte & 0x07) << 18 | np.int64(data[place + 1] & 0x3F) << 12 | np.int64(data[place + 2] & 0x3F) << 6
    return code | (data[place + 3] & 0x3F), place + 4


@compiled
def _spell(code, spelled, size):
    """Append a character to a token as long as there is room, and return the token's size."""
    if size + 4 > len(spelled):
        return len(spelled)
    if code < 0x80:
        spelled[size] = code
        return size + 1
    if code < 0x800:
        spelled[size], spelled[size + 1] = 0xC0 | code >> 6, 0x80 | code & 0x3F
        return size + 2
    if code < 0x10000:
        spelled[size], spelled[size + 1], spelled[size + 2] = (
            0xE0 | code >> 12,
            0x80 | code >> 6 & 0x3F,
            0x80 | code & 0x3F,
        )
        return size + 3
    spelled[size], spelled[size + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 0x3F
    spelled[size + 2], spelled[size + 3] = 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
    return size + 4


@compiled
def _after_tag(data, start, end, kinds):
    """Return where a tag that starts here has ended, or -1 where it is not a plain one."""
    place = start + 1
    closes = place < end and data[place] == 47  # /
    if closes:
        place += 1
    if place >= end:
        return -1
    first = data[place] | 0x20
    if not 97 <= first <= 122:
        return -1  # no tag, or one of those that may be comments
    if first == 115 and not closes and place + 1 < end and data[place + 1] | 0x20 in (99, 116):
        return -1  # may be a script or a style sheet, which go with their content
    while place < end:
        byte = data[place]
        if byte == 62:
            return place + 1
        if byte >= 0x80 or byte == 60 or byte == 38 or kinds[byte] == UNREADABLE:
            return -1
        place += 1
    return -1


@compiled
def scan_texts(
    data: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    folds: NDArray[np.uint32],
    slots: NDArray[np.int32],
    letters: NDArray[np.uint8],
    ends: NDArray[np.int64],
    spelled: NDArray[np.uint8],
    longest: int,
    max_tokens: int,
    values: NDArray[np.int32],
    lengths: NDArray[np.int64],
    counts: NDArray[np.int32],
) -> int:
    """Write the ids of texts one after the other, and return how many.

    Args:
        data: UTF-8.
        bounds: in it: where each text starts, and where the last one ends.
        kinds: what each character is.
        folds: which one a token has for it.
        slots: see :func:`enter_tokens`.
        letters: the same.
        ends: the same.
        spelled: room for a token, four bytes more than the longest that is known; or for any word that is to be cut.
        longest: bytes of the longest piece, where words are cut into pieces; else 0.
        max_tokens: to which a text is cut.
        values: room for the ids.
        lengths: gets the number of ids of each text; -1 for one that is not read.
        counts: gets the tokens of each text, before it is cut, and those of them that are not known; shape (2, texts).
    """
    used = 0
    tail = max_tokens // 2
    for row in range(len(bounds) - 1):
        place, end = bounds[row], bounds[row + 1]
        first, unknown = used, 0
        while place < end:
            start = place
            code, place = _decode(data, place)
            kind = kinds[code] if code < len(kinds) else UNREADABLE
            if kind == SPACE:
                continue
            if kind == TAG:
                place = _after_tag(data, start, end, kinds)
                if place < 0:
                    kind = UNREADABLE
                else:
                    continue
            if kind == AMPERSAND:  # of an entity, unless a space follows
                kind = OTHER if place == end or data[place] == 32 else UNREADABLE
            if kind == UNREADABLE:
                place = start
                break
            size = _spell(folds[code], spelled, 0)
            if code == JOINER:  # of an emoji, the next part of which follows; those of words are read with these
                code, place = _decode(data, place)
                size = _spell(folds[code], spelled, size)
            elif kind <= CHARACTER:
                last = MARK if kind == CHARACTER else WORD
                while place < end:
                    code, after = _decode(data, place)
                    kind = kinds[code] if code < len(kinds) else UNREADABLE
                    if kind == APOSTROPHE and last == WORD and after < end:
                        other, _ = _decode(data, after)
                        if other < len(kinds) and kinds[other] <= WORD:
                            kind = WORD
                    if kind > last:
                        break
                    size = _spell(folds[code], spelled, size)
                    place = after
            token = _look_up(spelled, size, slots, letters, ends) if size < len(spelled) else UNKNOWN_ID
            if token == UNKNOWN_ID and longest:
                used, more = _cut_word(spelled, 0, size, slots, letters, ends, longest, values, used)
                unknown += more
                continue
            unknown += token == UNKNOWN_ID
            values[used] = token
            used += 1
        if place < end:
            used = first
            lengths[row] = -1
            continue
        counts[0, row], counts[1, row] = used - first, unknown
        if used - first > max_tokens:
            for step in range(tail):
                values[first + max_tokens - tail + step] = values[used - tail + step]
            used = first + max_tokens
        lengths[row] = used - first
    return used
