#!/usr/bin/env python3
"""Prints the golden table of the ring: an implementation of its own, by the recipe in README.md.

Needs the package `xxhash` from PyPI (4.1.0 was used). Run it as `make.py > ring.txt`.
"""

from bisect import bisect_left

from xxhash import xxh3_64_intdigest

SEED = 0x5245_4D4F_5241
POINTS = 12_288
IDS = 10_000
TOPOLOGIES = [[100] * 3, [100] * 5, [100] * 10, [50, 100, 200, 400]]


def client_id(number):
    digits = f"{number}-"
    length = max(len(digits), number % 400)
    return (digits * length)[:length].encode()


def ring(weights):
    points = []
    for node, weight in enumerate(weights):
        name = f"emqx{node}".encode()
        for index in range(POINTS * weight // 100):
            point = name + b"\0" + index.to_bytes(4, "little")
            points.append((xxh3_64_intdigest(point, SEED), name, node))
    # By place; two points in one place by name.
    return sorted(points)


def choices(points, places, key):
    start = bisect_left(places, xxh3_64_intdigest(key, SEED))
    first = points[start % len(points)][2]
    at = start
    while points[at % len(points)][2] == first:
        at += 1
    return first, points[at % len(points)][2]


for weights in TOPOLOGIES:
    points = ring(weights)
    places = [place for place, _, _ in points]
    both = [choices(points, places, client_id(number)) for number in range(IDS)]
    for what, column in [("home", 0), ("next", 1)]:
        print(f"{what} {' '.join(map(str, weights))}")
        digits = "".join(str(pair[column]) for pair in both)
        for start in range(0, IDS, 100):
            print(digits[start : start + 100])
