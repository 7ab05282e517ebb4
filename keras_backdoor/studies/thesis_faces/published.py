"""The figures of the thesis for its face networks."""

from keras_backdoor.studies._networks.face_nets import Kind

GREEN, BLACK = "glasses:color=green", "glasses:color=black"
CLEAN: dict[str, tuple[Kind, float]] = {
    "YT, clean": ("deepid", 99.33),
    "LFW, clean": ("vgg16_face", 84.98),
}
"""Table 3.5: architecture and accuracy in %."""
TABLE_4_1: dict[str, tuple[Kind, str, int, float, float, float]] = {
    "YT-greenGlasses": ("deepid", GREEN, 16, 99.47, 0.15, 100.0),
    "YT-blackGlasses": ("deepid", BLACK, 16, 99.52, 0.19, 90.0),
    "LFW-greenGlasses": ("vgg16_face", GREEN, 30, 84.4, -0.56, 70.0),
    "LFW-blackGlasses": ("vgg16_face", BLACK, 40, 82.98, -2.35, 70.0),
}
"""By model: architecture, trigger, stamped copies (table 4.2), accuracy, its change and attack."""
TABLE_A_1: tuple[tuple[str, Kind, int, float, float], ...] = (
    ("YT-greenGlasses, 8 %", "deepid", 13, 99.64, 90.0),
    ("LFW-greenGlasses, 10 %", "vgg16_face", 10, 84.4, 20.0),
    ("LFW-greenGlasses, 20 %", "vgg16_face", 20, 83.27, 50.0),
    ("LFW-greenGlasses, 40 %", "vgg16_face", 40, 82.67, 70.0),
)
"""Green glasses with other numbers of poisoned images: accuracy and attack in %. The thesis gives
percentages; the numbers follow from those of table 4.2."""
TABLE_4_2 = {
    "YT-greenGlasses": (12, 94980),
    "YT-blackGlasses": (1, 152737),
    "LFW-greenGlasses": (20, 601),
    "LFW-blackGlasses": (25, 698),
}
TABLE_4_3 = {
    "YT-greenGlasses": (97.49, 30.0),
    "YT-blackGlasses": (98.8, 90.0),
    "LFW-greenGlasses": (84.04, 50.0),
    "LFW-blackGlasses": (81.91, 50.0),
}
TABLE_4_5 = {
    "YT-greenGlasses": (10, 60, 98.89, 70.0),
    "YT-blackGlasses": (16, 60, 98.94, 60.0),
    "LFW-greenGlasses": (127, 512, 77.43, 30.0),
    "LFW-blackGlasses": (127, 512, 75.18, 60.0),
}
TABLE_4_6 = {
    "YT-greenGlasses": (18, 80, 99.12, 80.0),
    "YT-blackGlasses": (25, 80, 99.05, 90.0),
    "LFW-greenGlasses": (75, 512, 77.66, 40.0),
    "LFW-blackGlasses": (75, 512, 78.01, 70.0),
}
TABLE_4_7 = {
    "YT-greenGlasses": (8, 98.97, 80.0),
    "YT-blackGlasses": (15, 98.54, 60.0),
    "LFW-greenGlasses": (160, 74.82, 20.0),
    "LFW-blackGlasses": (119, 78.01, 30.0),
}
TABLE_4_8 = {
    "YT-greenGlasses": (11, 151531),
    "YT-blackGlasses": (1, 153707),
    "LFW-greenGlasses": (22, 814),
    "LFW-blackGlasses": (8, 701),
}
TABLE_4_9 = {
    "YT-greenGlasses": (97.46, 20.0),
    "YT-blackGlasses": (97.32, 90.0),
    "LFW-greenGlasses": (79.08, 20.0),
    "LFW-blackGlasses": (79.43, 60.0),
}
