"""Names of datasets and their categories; imports nothing heavy, so a workflow can ask before
data is there."""

DEMO_CATEGORIES = ("circuit_board", "hex_nut", "woven_fabric")

# In the order of the published class index (alphabetical), which class conditioning relies on.
KNOWN_CATEGORIES: dict[str, tuple[str, ...]] = {
    "demo": DEMO_CATEGORIES,
    "mvtec_ad": (
        *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut"),
        *("pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
    ),
    "mpdd": (
        *("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"),
    ),
    "btad": ("01", "02", "03"),
    "visa": (
        *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
        *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
    ),
    # Two splits of the same photographs.
    "magnetic_tile": ("random", "by_tile"),
}
