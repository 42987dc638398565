"""How the fake images of each category are drawn: a few lines per product.

They do not look like photographs. The product is bright on dark or dark on bright, in grey or in
one colour channel, or it fills the frame. That a foreground rule finds one of them proves little,
so the rules are tested against independent thresholds (test_foreground.py).
"""

from collections.abc import Callable

import numpy as np
from drawing import Canvas, arc, box, disc, ellipse, polygon, segment, turned

Recipe = Callable[[Canvas], None]
RECIPES: dict[str, dict[str, Recipe]] = {"mvtec_ad": {}, "mpdd": {}, "btad": {}, "visa": {}}


def recipe(dataset: str, *categories: str) -> Callable[[Recipe], Recipe]:
    def keep(draw: Recipe) -> Recipe:
        RECIPES[dataset].update(dict.fromkeys(categories, draw))
        return draw

    return keep


# --- MVTec-AD ------------------------------------------------------------------------------------


@recipe("mvtec_ad", "bottle")
def bottle(c: Canvas) -> None:
    c.ground((236, 236, 233))
    c.jitter(0.03)
    c.paint(disc(c.x, c.y, 0, 0, 0.86), (66, 44, 26))
    c.paint(disc(c.x, c.y, 0, 0, 0.8), (28, 18, 12))
    c.paint(np.abs(disc(c.x, c.y, 0, 0, 0.66)) - 0.05, (96, 66, 38))
    c.paint(disc(c.x, c.y, 0, 0, 0.5), (44, 28, 16))
    c.paint(disc(c.x, c.y, 0, 0, 0.42), (16, 11, 9))
    c.paint(segment(c.x, c.y, -0.5, -0.52, -0.3, -0.66, 0.03), (120, 96, 70))


@recipe("mvtec_ad", "cable")
def cable(c: Canvas) -> None:
    c.ground((122, 120, 118))
    c.jitter(0.03)
    c.paint(disc(c.x, c.y, 0, 0, 0.92), (205, 205, 200))
    c.paint(disc(c.x, c.y, 0, 0, 0.82), (150, 150, 148))
    for angle, colour in ((-1.57, (86, 150, 60)), (0.52, (60, 90, 160)), (2.62, (128, 104, 84))):
        cx, cy = 0.42 * np.cos(angle), 0.42 * np.sin(angle)
        c.paint(disc(c.x, c.y, cx, cy, 0.37), colour)
        for strand in range(7):
            turn, out = strand * 1.047, 0.15 * (strand > 0)
            sx, sy = cx + out * np.cos(turn), cy + out * np.sin(turn)
            c.paint(disc(c.x, c.y, sx, sy, 0.08), (196, 130, 84))
    c.everything()


@recipe("mvtec_ad", "capsule")
def capsule(c: Canvas) -> None:
    c.ground((228, 229, 227))
    c.jitter(0.04)
    hull = segment(c.x, c.y, -0.55, 0, 0.55, 0, 0.3)
    c.paint(hull, (34, 32, 34))
    c.paint(np.maximum(hull, -c.x - 0.04), (150, 62, 36))
    c.paint(np.maximum(hull + 0.2, np.abs(c.y + 0.13) - 0.03), (96, 90, 88), 0.6)
    for mark in range(4):
        x = 0.16 + 0.12 * mark
        c.paint(box(c.x, c.y, x, 0.05, 0.04, 0.07), (112, 108, 100))


@recipe("mvtec_ad", "carpet")
def carpet(c: Canvas) -> None:
    c.ground((118, 118, 120))
    c.jitter(0.1)
    weave = np.sin(34 * c.x) * np.sin(34 * c.y) + 0.5 * np.sin(17 * (c.x + c.y))
    c.light(1 + 0.24 * weave + 0.07 * c.clouds(6), product_only=False)
    c.everything()


@recipe("mvtec_ad", "grid")
def grid(c: Canvas) -> None:
    c.ground((196, 196, 196))
    c.jitter(0.1, 0.02)
    for turn in (0.9, -0.9):
        along, _ = turned(c.x, c.y, turn)
        bars = np.abs((along / 0.27 + 0.5) % 1 - 0.5) * 0.27 - 0.045
        c.paint(bars, (64, 64, 64))
        c.paint(bars + 0.03, (104, 104, 104), product=None)


@recipe("mvtec_ad", "hazelnut")
def hazelnut(c: Canvas) -> None:
    c.ground((20, 20, 22))
    c.jitter(0.06, 3.1)
    bend = np.maximum(0, -c.y) * 0.25
    shell = ellipse(c.x * (1 + bend), c.y, 0, 0, 0.66, 0.7)
    c.paint(shell, (140, 88, 50))
    c.light(1.05 - 0.3 * (c.x + c.y) + 0.12 * np.sin(22 * c.x / (1.2 - np.abs(c.y))))
    c.paint(np.maximum(shell, 0.34 - c.y), (186, 148, 108))
    c.light(1 + 0.06 * c.clouds(12))


@recipe("mvtec_ad", "leather")
def leather(c: Canvas) -> None:
    c.ground((118, 74, 48))
    pores = np.abs(c.clouds(26))
    c.light(0.84 + 0.16 * np.minimum(pores, 1.6) + 0.05 * c.clouds(3), product_only=False)
    c.everything()


@recipe("mvtec_ad", "metal_nut")
def metal_nut(c: Canvas) -> None:
    c.ground((26, 26, 29))
    c.jitter(0.05, 0.6)
    radius, angle = np.hypot(c.x, c.y), np.arctan2(c.y, c.x)
    c.paint((radius - 0.66 - 0.12 * np.cos(4 * angle)) * 0.9, (132, 128, 122))
    c.paint(disc(c.x, c.y, 0, 0, 0.46), (176, 174, 168))
    c.light(1 + 0.22 * np.cos(angle * 2 + 1) + 0.05 * c.clouds(14))
    c.paint(disc(c.x, c.y, 0, 0, 0.28), (24, 24, 27), product=False)


@recipe("mvtec_ad", "pill")
def pill(c: Canvas) -> None:
    c.ground((28, 34, 36))
    c.jitter(0.04)
    hull = ellipse(c.x, c.y, 0, 0, 0.78, 0.5)
    c.paint(hull, (222, 220, 212))
    for _ in range(9):
        at = disc(c.x, c.y, c.u(-0.6, 0.6), c.u(-0.36, 0.36), c.u(0.02, 0.05))
        c.paint(np.maximum(hull + 0.06, at), (190, 92, 84))
    for side in (-0.16, 0.12):
        c.paint(box(c.x, c.y, side, 0, 0.025, 0.16), (176, 174, 168))
        c.paint(box(c.x, c.y, side + 0.07, -0.14, 0.08, 0.022), (176, 174, 168))
        c.paint(box(c.x, c.y, side + 0.05, 0, 0.06, 0.022), (176, 174, 168))


@recipe("mvtec_ad", "screw")
def screw(c: Canvas) -> None:
    c.ground((188, 188, 188))
    c.jitter(0.06, 3.1)
    thread = 0.035 * np.abs((c.x / 0.07) % 2 - 1)
    shaft = np.maximum(np.abs(c.y) - 0.1 - thread * (c.x > -0.25), np.abs(c.x - 0.05) - 0.62)
    tip = np.maximum(np.abs(c.y) - (0.9 - c.x) * 0.5, np.abs(c.x - 0.76) - 0.12)
    c.paint(np.minimum(shaft, tip), (74, 74, 74))
    c.paint(np.maximum(np.minimum(shaft, tip), np.abs(c.y + 0.04) - 0.03), (112, 112, 112))
    c.paint(box(c.x, c.y, -0.68, 0, 0.14, 0.3, 0.08), (58, 58, 58))


@recipe("mvtec_ad", "tile")
def tile(c: Canvas) -> None:
    c.ground((176, 174, 168))
    c.paint(0.55 - np.abs(c.clouds(11)), (52, 52, 54), 0.9)
    c.paint(1.5 - c.clouds(20), (226, 224, 220), 0.9)
    c.everything()


@recipe("mvtec_ad", "toothbrush")
def toothbrush(c: Canvas) -> None:
    c.ground((22, 23, 26))
    c.jitter(0.04)
    c.paint(box(c.x, c.y, 0, -0.05, 0.4, 0.78, 0.34), (214, 218, 222))
    c.paint(box(c.x, c.y, 0, 0.86, 0.14, 0.2, 0.05), (214, 218, 222))
    for row in range(7):
        for column in range(4):
            colour = (84, 140, 204) if (row + column) % 2 else (240, 240, 236)
            x, y = -0.24 + 0.16 * column, -0.62 + 0.19 * row
            c.paint(disc(c.x, c.y, x, y, 0.07), colour)


@recipe("mvtec_ad", "transistor")
def transistor(c: Canvas) -> None:
    c.ground((158, 112, 74))
    holes = np.hypot((c.X + 0.1) % 0.26 - 0.13, (c.Y + 0.1) % 0.26 - 0.13) - 0.045
    c.paint(holes, (52, 38, 28))
    c.jitter(0.04)
    for leg in (-0.24, 0, 0.24):
        c.paint(box(c.x, c.y, leg, 0.5, 0.04, 0.44), (206, 204, 198))
    c.paint(box(c.x, c.y, 0, -0.18, 0.42, 0.36, 0.06), (34, 33, 34))
    c.paint(box(c.x, c.y, 0, -0.3, 0.26, 0.03), (92, 92, 92))
    c.everything()


@recipe("mvtec_ad", "wood")
def wood(c: Canvas) -> None:
    c.ground((172, 124, 80))
    c.jitter(0.1)
    rings = np.sin(16 * (c.x + 0.12 * c.clouds(2, 3)))
    c.light(1 + 0.12 * rings + 0.1 * c.clouds(2, 40), product_only=False)
    c.everything()


@recipe("mvtec_ad", "zipper")
def zipper(c: Canvas) -> None:
    c.ground((226, 226, 226))
    c.jitter(0.03, 0.01)
    c.paint(box(c.x, c.y, 0, 0, 0.62, 2), (66, 66, 66))
    c.light(1 + 0.12 * np.sin(60 * c.y) * np.sin(60 * c.x))
    c.paint(box(c.x, c.y, 0, 0, 0.22, 2), (40, 40, 40))
    for side in (-1, 1):
        teeth = np.abs((c.y / 0.18 + 0.25 * side) % 1 - 0.5) * 0.18 - 0.05
        tooth = np.maximum(teeth, np.abs(c.x - 0.07 * side) - 0.12)
        c.paint(tooth, (112, 112, 112))


# --- MPDD ----------------------------------------------------------------------------------------


def _bracket(c: Canvas, colour, hole) -> None:
    """An angled plate with three holes."""
    c.jitter(0.06, 0.5)
    plate = np.minimum(
        segment(c.x, c.y, -0.55, 0.5, -0.35, -0.4, 0.2),
        segment(c.x, c.y, -0.35, -0.4, 0.6, -0.35, 0.2),
    )
    c.paint(plate, colour)
    c.light(1 + 0.1 * (c.x - c.y) + 0.04 * c.clouds(8))
    for x, y in ((-0.53, 0.45), (-0.34, -0.38), (0.55, -0.34)):
        c.paint(disc(c.x, c.y, x, y, 0.08), hole, product=False)


@recipe("mpdd", "bracket_black")
def bracket_black(c: Canvas) -> None:
    c.ground((158, 170, 152))
    c.light(1 + 0.03 * c.clouds(4), product_only=False)
    _bracket(c, (40, 38, 42), (158, 170, 152))


@recipe("mpdd", "bracket_brown")
def bracket_brown(c: Canvas) -> None:
    c.ground((172, 176, 166))
    c.light(1 + 0.03 * c.clouds(4), product_only=False)
    _bracket(c, (124, 66, 44), (172, 176, 166))


@recipe("mpdd", "bracket_white")
def bracket_white(c: Canvas) -> None:
    c.ground((166, 128, 70))
    c.light(1 + 0.05 * c.clouds(2, 20), product_only=False)
    _bracket(c, (224, 222, 214), (166, 128, 70))


@recipe("mpdd", "connector")
def connector(c: Canvas) -> None:
    c.ground((196, 188, 170))
    c.light(1 + 0.03 * c.clouds(4), product_only=False)
    c.jitter(0.05, 0.4)
    c.paint(box(c.x, c.y, 0, 0, 0.7, 0.34, 0.06), (178, 44, 38))
    for pin in range(5):
        x = -0.5 + 0.25 * pin
        c.paint(box(c.x, c.y, x, -0.1, 0.08, 0.12, 0.02), (104, 22, 20))
        c.paint(box(c.x, c.y, x, 0.52, 0.035, 0.2), (70, 64, 66))


@recipe("mpdd", "metal_plate")
def metal_plate(c: Canvas) -> None:
    c.ground((214, 212, 206))
    c.jitter(0.04, 0.15)
    c.paint(box(c.x, c.y, 0, 0, 0.74, 0.6, 0.08), (102, 106, 112))
    c.light(1 + 0.08 * c.clouds(40, 3))
    for x in (-0.55, 0.55):
        for y in (-0.42, 0.42):
            c.paint(disc(c.x, c.y, x, y, 0.09), (214, 212, 206), product=False)


@recipe("mpdd", "tubes")
def tubes(c: Canvas) -> None:
    c.ground((92, 64, 40))
    c.light(1 + 0.06 * c.clouds(2, 14), product_only=False)
    for row in range(4):
        c.jitter(0.06, 0.12)
        y = -0.66 + 0.44 * row
        c.paint(segment(c.x, c.y, -0.6, y, 0.6, y, 0.13), (158, 186, 206))
        c.paint(segment(c.x, c.y, -0.58, y - 0.05, 0.56, y - 0.05, 0.025), (226, 236, 242))
        c.paint(ellipse(c.x, c.y, 0.64, y, 0.05, 0.09), (112, 134, 160))


# --- BTAD ----------------------------------------------------------------------------------------


@recipe("btad", "01")
def btad_01(c: Canvas) -> None:
    c.ground((24, 25, 27))
    c.jitter(0.03)
    c.paint(polygon(c.x, c.y, 8, 0.8), (176, 172, 164))
    c.paint(disc(c.x, c.y, 0, 0, 0.62), (206, 204, 198))
    c.light(1 + 0.06 * np.sin(60 * np.hypot(c.x, c.y)))
    c.paint(disc(c.x, c.y, 0, 0, 0.34), (146, 142, 136))
    c.paint(disc(c.x, c.y, 0, 0, 0.24), (190, 186, 178))


@recipe("btad", "02")
def btad_02(c: Canvas) -> None:
    c.ground((140, 118, 92))
    fibres = 0.16 * c.clouds(30, 3) + 0.1 * c.clouds(3)
    c.light(1 + fibres, product_only=False)
    c.everything()


@recipe("btad", "03")
def btad_03(c: Canvas) -> None:
    c.ground((20, 22, 26))
    c.jitter(0.03, 0.4)
    c.paint(disc(c.x, c.y, 0, 0, 0.82), (168, 172, 176))
    c.light(1 + 0.1 * np.cos(2 * np.arctan2(c.y, c.x)) + 0.05 * np.sin(90 * np.hypot(c.x, c.y)))
    c.paint(np.abs(disc(c.x, c.y, 0, 0, 0.62)) - 0.03, (120, 124, 130))
    c.paint(disc(c.x, c.y, 0, 0, 0.38), (22, 24, 28), product=False)


# --- VisA ----------------------------------------------------------------------------------------


def _four(c: Canvas, shift: float, turn: float):
    """Coordinates of four objects in two rows, each shifted and rotated slightly."""
    for x in (-0.62, 0.62):
        for y in (-0.48, 0.48):
            c.jitter(shift, turn)
            yield c.x - x, c.y - y


@recipe("visa", "candle")
def candle(c: Canvas) -> None:
    c.ground((40, 46, 44))
    for x, y in _four(c, 0.03, 0.1):
        c.paint(disc(x, y, 0, 0, 0.36), (226, 220, 198))
        c.paint(disc(x, y, 0, 0, 0.28), (244, 240, 224))
        c.paint(segment(x, y, 0, 0, 0.06, -0.05, 0.025), (150, 140, 120))


@recipe("visa", "capsules")
def capsules(c: Canvas) -> None:
    c.ground((176, 150, 116))
    for row in range(4):
        for column in range(5):
            c.jitter(0.06, 0.05)
            x, y = turned(c.x + 1.12 - 0.56 * column, c.y + 0.75 - 0.5 * row, c.u(0, 3.1))
            hull = segment(x, y, -0.13, 0, 0.13, 0, 0.11)
            c.paint(hull, (64, 96, 58), 0.85)
            c.paint(segment(x, y, -0.1, -0.04, 0.06, -0.04, 0.025), (168, 190, 150), 0.8)
    c.everything()


@recipe("visa", "cashew")
def cashew(c: Canvas) -> None:
    c.ground((44, 48, 52))
    c.jitter(0.06, 0.3)
    nut = arc(c.x + 0.25, c.y, 0.42, 0.27 - 0.08 * c.y, 1.25)
    c.paint(nut, (212, 176, 126))
    c.light(1.08 - 0.2 * c.y + 0.05 * c.clouds(10))
    c.paint(np.maximum(nut + 0.1, np.abs(c.x - 0.3) - 0.03), (188, 150, 104), 0.7)


@recipe("visa", "chewinggum")
def chewinggum(c: Canvas) -> None:
    c.ground((36, 40, 42))
    c.jitter(0.05, 0.2)
    c.paint(box(c.x, c.y, 0, 0, 0.62, 0.46, 0.2), (214, 216, 210))
    c.light(1 - 0.1 * (c.x + c.y) + 0.04 * c.clouds(7))


@recipe("visa", "fryum")
def fryum(c: Canvas) -> None:
    c.ground((40, 42, 46))
    c.jitter(0.04, 0.5)
    c.paint(np.abs(disc(c.x, c.y, 0, 0, 0.62)) - 0.12, (218, 158, 82))
    for spoke in range(3):
        along, across = turned(c.x, c.y, spoke * 1.047)
        c.paint(segment(along, across, -0.55, 0, 0.55, 0, 0.07), (208, 146, 74))
    c.paint(disc(c.x, c.y, 0, 0, 0.2), (226, 172, 98))
    c.light(1 + 0.08 * c.clouds(9))


def _macaroni(c: Canvas, turn: float) -> None:
    c.ground((42, 46, 50))
    for x, y in _four(c, 0.05, turn):
        bend = arc(x + 0.14, y, 0.24, 0.12, 1.2)
        c.paint(bend, (222, 172, 84))
        c.paint(bend + 0.08, (240, 198, 118))


@recipe("visa", "macaroni1")
def macaroni1(c: Canvas) -> None:
    _macaroni(c, 0.15)


@recipe("visa", "macaroni2")
def macaroni2(c: Canvas) -> None:
    c.ground((42, 46, 50))
    for x, y in _four(c, 0.1, 0.1):
        along, across = turned(x, y, c.u(0, 6.28))
        bend = arc(along + 0.14, across, 0.24, 0.12, 1.2)
        c.paint(bend, (216, 164, 92))
        c.paint(bend + 0.08, (234, 190, 124))


def _board(c: Canvas, colour, half_width: float, half_height: float) -> None:
    c.ground((14, 14, 16), 2)
    c.jitter(0.03, 0.04)
    c.paint(box(c.x, c.y, 0, 0, half_width, half_height, 0.05), colour)
    c.light(1 + 0.05 * c.clouds(6))


def _chip(c: Canvas, x: float, y: float, half_width: float, half_height: float) -> None:
    c.paint(box(c.x, c.y, x, y, half_width + 0.03, half_height - 0.03), (186, 190, 196))
    c.paint(box(c.x, c.y, x, y, half_width, half_height, 0.02), (64, 66, 84))


@recipe("visa", "pcb1")
def pcb1(c: Canvas) -> None:
    _board(c, (36, 84, 168), 0.95, 0.56)
    for x in (-0.52, 0.52):
        c.paint(disc(c.x, c.y, x, 0, 0.34), (178, 182, 190))
        c.paint(disc(c.x, c.y, x, 0, 0.26), (104, 108, 124))
    for pin in range(4):
        c.paint(disc(c.x, c.y, -0.15 + 0.1 * pin, 0.46, 0.035), (226, 222, 190))


@recipe("visa", "pcb2")
def pcb2(c: Canvas) -> None:
    _board(c, (40, 96, 150), 1.05, 0.5)
    _chip(c, -0.3, 0, 0.22, 0.2)
    _chip(c, 0.4, -0.1, 0.16, 0.14)
    for pin in range(6):
        c.paint(disc(c.x, c.y, -0.85 + 0.12 * pin, 0.4, 0.035), (226, 222, 190))
    c.paint(box(c.x, c.y, 0.85, 0.2, 0.1, 0.16, 0.02), (196, 200, 206))


@recipe("visa", "pcb3")
def pcb3(c: Canvas) -> None:
    _board(c, (58, 78, 158), 1.1, 0.42)
    _chip(c, 0, 0, 0.18, 0.18)
    c.paint(disc(c.x, c.y, -0.74, 0, 0.2), (120, 180, 214))
    c.paint(disc(c.x, c.y, 0.6, -0.14, 0.11), (206, 204, 214))
    for pin in range(3):
        c.paint(box(c.x, c.y, 1.0, -0.2 + 0.2 * pin, 0.08, 0.03), (226, 222, 190))


@recipe("visa", "pcb4")
def pcb4(c: Canvas) -> None:
    _board(c, (74, 70, 150), 0.9, 0.72)
    _chip(c, -0.1, 0.1, 0.28, 0.28)
    for x in (-0.68, 0.62):
        c.paint(box(c.x, c.y, x, -0.45, 0.12, 0.16, 0.03), (188, 192, 198))
    for part in range(5):
        c.paint(box(c.x, c.y, 0.5, -0.1 + 0.14 * part, 0.09, 0.035), (196, 176, 166))
    for x in (-0.8, 0.8):
        for y in (-0.62, 0.62):
            c.paint(disc(c.x, c.y, x, y, 0.05), (226, 222, 190))


@recipe("visa", "pipe_fryum")
def pipe_fryum(c: Canvas) -> None:
    c.ground((42, 44, 48))
    c.jitter(0.05, 0.3)
    c.paint(box(c.x, c.y, 0, 0, 0.72, 0.34, 0.1), (222, 140, 66))
    c.light(1.05 + 0.2 * np.cos(4 * c.y) - 0.2 + 0.05 * c.clouds(8))
    c.paint(ellipse(c.x, c.y, 0.66, 0, 0.13, 0.3), (236, 170, 100))
    c.paint(ellipse(c.x, c.y, 0.67, 0, 0.08, 0.2), (150, 84, 40))
