"""The most that an input may ask for. Readers check counts and sizes against these before they reserve memory, and
their errors name the bound; each is several times what published nets and data sets have."""

MEGABYTE = 1 << 20

# a net
MOST_LAYERS = 2_000  # the deepest published cfg has about 330
MOST_PARAMETERS = 500_000_000  # 2 GB as float32; YOLOv4-P7 has 290 million
MOST_LIVE_VALUES = 1 << 29  # of maps that one image's forward pass holds at once: 2 GB; YOLOv3 at 3,200 pixels
MOST_SIDE_PX = 8_192  # of a net's input
MOST_NUMBER = 1_000_000  # of any whole number in a cfg
MOST_ANCHOR_PX = 1_000_000
MOST_CLASSES = 100_000  # YOLO9000 has 9,418

# files; text that a net or a data set is described in
MOST_CFG_BYTES = MEGABYTE // 2
MOST_YAML_BYTES = MEGABYTE
MOST_NAMES_BYTES = 8 * MEGABYTE
MOST_LABEL_BYTES = 8 * MEGABYTE
MOST_TEXT_BYTES = 512 * MEGABYTE  # a list of some millions of images
MOST_BOXES = 10_000  # of one image
MOST_UNPACKED_BYTES = 1 << 30  # of a checkpoint that is stored compressed
MOST_HEADER_BYTES = 64 * MEGABYTE  # of a checkpoint without its tensors
MOST_PICTURE_PX = 200_000_000  # 600 MB decoded; cameras reach 151 million
MOST_PICTURE_BYTES = 1 << 30

# a command line
MOST_THREADS = 1_024
MOST_PROCESSES = 256
MOST_BATCH = 65_536
MOST_EPOCHS = 1_000_000
MOST_SEED = (1 << 63) - 1  # what torch.manual_seed takes
