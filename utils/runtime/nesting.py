"""How large the tuples of a serialised file are, told from its opcodes before anything of it is made.

A tuple in a tuple in a tuple, each twice in the next, takes a file of a few bytes and, as the key of a dict, years
to hash, in C code that no signal ends; one that is nested a million times ends the interpreter.
"""

# Opcodes that torch writes, with the bytes of their argument: values, then those that take values off the stack.
VALUES = {
    b"N": 0,
    b"\x88": 0,
    b"\x89": 0,
    b"J": 4,
    b"K": 1,
    b"M": 2,
    b"G": 8,
    b"]": 0,
    b"}": 0,
    b")": 0,
    b"\x8f": 0,
}
COUNTED = {b"X": 4, b"U": 1, b"\x8a": 1}  # values whose argument begins with its length, in so many bytes
TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
TAKEN = {b"a": 1, b"s": 2, b"b": 1}  # by a list, a dict and an object, which stay on the stack
TAKEN_TO_MARK = (b"e", b"u")
MADE = {b"R": 2, b"\x81": 2, b"Q": 1}  # of a function or class and its arguments; a tensor's memory
STORED, FETCHED = {b"q": 1, b"r": 4}, {b"h": 1, b"j": 4}


def largest_tuple(data: bytes, streams: int = 1) -> int:
    """The number of values in the largest tuple, those in its tuples included, each as often as it is in there.

    Of `streams` streams one after the other, as far as these can be understood: their reader refuses the rest.
    """
    sizes: list[int] = []  # of the values on the stack
    marks: list[int] = []
    stored: dict[bytes, int] = {}
    largest, at = 0, 0
    try:
        while streams:
            code, at = data[at : at + 1], at + 1
            if code in VALUES:
                at += VALUES[code]
                sizes.append(1)
            elif code in COUNTED:
                begin = at + COUNTED[code]
                at = begin + int.from_bytes(data[at:begin], "little")
                sizes.append(1)
            elif code == b"c":  # two lines: a module and a name in it
                at = data.index(b"\n", data.index(b"\n", at) + 1) + 1
                sizes.append(1)
            elif code == b"(":
                marks.append(len(sizes))
            elif code in TUPLES or code == b"t":
                begin = marks.pop() if code == b"t" else len(sizes) - TUPLES[code]
                sizes[begin:] = [1 + sum(sizes[begin:])]
                largest = max(largest, sizes[-1])
            elif code in TAKEN:
                del sizes[len(sizes) - TAKEN[code] :]
            elif code in TAKEN_TO_MARK:
                del sizes[marks.pop() :]
            elif code in MADE:
                sizes[len(sizes) - MADE[code] :] = [1]
            elif code in STORED:
                stored[data[at : at + STORED[code]].rstrip(b"\0")] = sizes[-1]
                at += STORED[code]
            elif code in FETCHED:
                sizes.append(stored[data[at : at + FETCHED[code]].rstrip(b"\0")])
                at += FETCHED[code]
            elif code == b"\x80":
                at += 1
            elif code == b".":
                streams -= 1
                sizes, marks, stored = [], [], {}
            else:
                break
    except (IndexError, KeyError, ValueError):
        pass
    return largest
