"""How New York takes taxis: figures counted from trips of March 2019.

Facts from the public trip records of the city's Taxi and Limousine Commission (a sample of
yellow and green taxis); the places are its zone ids. Nothing else is kept of the trips.
"""

from __future__ import annotations

from typing import Final

# Pick-ups on weekdays by hour of the day, from 23:00 to 11:00.
HOURLY_PICKUPS: Final = (
    (23, 208), (0, 103), (1, 46), (2, 45), (3, 23), (4, 23),
    (5, 38), (6, 120), (7, 190), (8, 258), (9, 242), (10, 231),
)  # fmt: skip
PICKUPS_BEFORE: Final = 230  # in the hour before 23:00
PICKUPS_AFTER: Final = 225  # in the hour after 11:00

# (pick-ups, zones with that many): the busiest place has 3.8 % of all, the busiest ten 31 %.
PLACES: Final = (
    (124, (161,)),
    (115, (237,)),
    (104, (186,)),
    (99, (162, 230)),
    (98, (234,)),
    (96, (48,)),
    (95, (236,)),
    (91, (170,)),
    (90, (142,)),
    (81, (79,)),
    (80, (132,)),
    (76, (239,)),
    (66, (164,)),
    (65, (163,)),
    (64, (138,)),
    (62, (141,)),
    (61, (249,)),
    (60, (68,)),
    (56, (229, 238)),
    (55, (100,)),
    (53, (107,)),
    (52, (75,)),
    (49, (90,)),
    (46, (140, 231)),
    (44, (114,)),
    (43, (113,)),
    (41, (143,)),
    (39, (43, 74)),
    (38, (263,)),
    (37, (148,)),
    (36, (246,)),
    (34, (262,)),
    (33, (233,)),
    (32, (41,)),
    (31, (137,)),
    (30, (7,)),
    (29, (151, 166)),
    (28, (158,)),
    (27, (211,)),
    (25, (144,)),
    (22, (42,)),
    (21, (33, 65)),
    (20, (125,)),
    (17, (13, 87, 260)),
    (16, (97, 129)),
    (15, (24, 50, 244)),
    (13, (95, 145)),
    (12, (25, 82, 264)),
    (11, (116, 223)),
    (10, (66, 261)),
    (8, (45, 88, 146)),
    (7, (61, 130, 181, 255)),
    (6, (210,)),
    (5, (49, 52, 76, 112, 179, 182, 193, 209, 226, 232)),
    (4, (4, 40, 69, 71, 80, 168, 196, 243, 265)),
    (3, (37, 39, 92, 152, 169, 173, 215, 222, 224, 225, 256)),
    (2, (
        17, 20, 36, 38, 51, 55, 62, 70, 72, 73, 78, 83, 89, 91, 108, 131, 134, 136, 159, 171,
        189, 198, 213, 217, 235, 242, 250,
    )),
    (1, (
        12, 14, 16, 21, 26, 28, 29, 32, 35, 47, 53, 54, 64, 67, 85, 102, 119, 120, 121, 126,
        127, 135, 149, 153, 155, 157, 165, 167, 180, 183, 188, 190, 191, 197, 200, 203, 205,
        208, 212, 216, 218, 220, 228, 241, 248, 252, 254, 257, 259,
    )),
)  # fmt: skip


def place_weights() -> dict[int, int]:
    """Zone id -> how often it was the place of a pick-up."""
    return {zone: pickups for pickups, zones in PLACES for zone in zones}
