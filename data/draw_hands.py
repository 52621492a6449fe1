"""Articulated hands as circles in 3-D, posed, projected and painted with OpenCV.

A hand is a set of circles (x, y, z, r); a limb is the convex hull of neighbouring circles, painted as nested hulls from
dark rim to lit top. Hand frame: palm width 1, wrist at the origin, x across the palm from index to little finger, y
towards the fingers, z out of the palm. Image frame: pixels of the canvas, x right, y down, z towards the viewer.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

# x, y of the four knuckles, length of each finger and its radius at the knuckle, in palm widths: index to little finger
KNUCKLES = np.array([[-0.36, 1.10], [-0.12, 1.16], [0.12, 1.11], [0.35, 0.99]])
LENGTHS = np.array([0.90, 1.00, 0.92, 0.71])
RADII = np.array([0.128, 0.130, 0.122, 0.105])
PHALANGES = np.array([0.46, 0.30, 0.24])  # of a finger's length
TAPER = np.array([1.0, 0.92, 0.84, 0.74])  # of a finger's radius: knuckle, two joints, tip
PALM = np.array([[-0.20, 0.10, 0, 0.17], [0.20, 0.10, 0, 0.17], [0.36, 0.35, 0.03, 0.15], [0.36, 0.94, 0, 0.115],
                 [0.12, 1.04, 0, 0.13], [-0.12, 1.08, 0, 0.135], [-0.36, 1.03, 0, 0.13], [-0.33, 0.40, 0.05, 0.17]])

# degrees: flexion (knuckle, joint, joint) of index, middle, ring, little finger; thumb's abduction, bend, opposition
OPEN, BENT, FIST, CLAW = (4, 6, 4), (25, 30, 18), (75, 95, 55), (20, 60, 35)
POSES = {
    "open": ((OPEN,) * 4, (50, 8, 5)), "relaxed": (((14, 20, 10), BENT, BENT, BENT), (38, 12, 15)),
    "fist": ((FIST,) * 4, (22, 38, 35)), "claw": ((CLAW,) * 4, (45, 20, 30)),
    "point": ((OPEN, FIST, FIST, FIST), (25, 35, 35)), "victory": ((OPEN, OPEN, FIST, FIST), (20, 42, 40)),
    "thumb up": ((FIST,) * 4, (62, -4, 0)), "pinch": (((48, 55, 25), BENT, OPEN, OPEN), (28, 10, 48)),
    "grip": (((40, 55, 30),) * 4, (48, 18, 35)), "three": ((OPEN, OPEN, OPEN, FIST), (20, 45, 45)),
}
POSE_WEIGHTS = np.array([7, 6, 2, 2, 2, 1.5, 1, 1.5, 3, 1]) / 27

SKIN_RGB = np.array([[250, 218, 196], [240, 194, 162], [226, 172, 132], [201, 142, 102], [160, 104, 70],
                     [112, 70, 48], [76, 50, 38]], float)
_ANGLES = np.linspace(0, 2 * np.pi, 14, endpoint=False)
# layers of a painted body, rim to top: fraction of the radius, brightness
LAYERS = np.array([[1.0, 0.70], [0.86, 0.83], [0.68, 0.93], [0.46, 1.0], [0.22, 1.06]])
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)  # (14, 2) unit circle


@dataclass
class Hand:
    """A posed hand in canvas pixels. Every part is an (n, 4) array of circles x, y, z, r."""

    palm: np.ndarray  # (8, 4)
    web: np.ndarray  # (3, 4) skin between thumb and index finger
    fingers: list[np.ndarray]  # 5 of (4, 4): four fingers knuckle to tip, then the thumb
    wrist: np.ndarray  # (4,)
    arm: np.ndarray  # (3, 4) wrist, elbow, shoulder
    palm_seen: bool  # palm towards the viewer, otherwise the back of the hand
    scale: float  # pixels in one palm width

    @cached_property
    def parts(self) -> list[np.ndarray]:
        """Hulls whose union is the silhouette of the hand without the arm: (m, 2) float pixels each."""
        limbs = [self.palm, self.web] + [finger[k:k + 2] for finger in self.fingers for k in range(3)]
        return [hull(limb) for limb in limbs]

    def corners_xy(self) -> np.ndarray:
        """(4, 2) corners of the box along the axis wrist to knuckles, tight on the silhouette: wrist corners first."""
        axis = self.palm[[4, 5], :2].mean(0) - self.wrist[:2]
        axis = axis / max(np.linalg.norm(axis), 1e-9)
        frame = np.stack([np.array([-axis[1], axis[0]]), axis], 1)  # (2, 2): columns across, along
        points = np.concatenate(self.parts) @ frame
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        # the release's order, clockwise on the screen: along the wrist, then up one side
        return np.array([[x1, y0], [x0, y0], [x0, y1], [x1, y1]]) @ frame.T


def hull(circles: np.ndarray, grow: float = 0.0) -> np.ndarray:
    """Convex hull of circles (n, 4) whose radii are `grow` larger: (m, 2) float32 pixels."""
    points = circles[:, None, :2] + (circles[:, None, 3:4] + grow) * CIRCLE
    return cv2.convexHull(points.reshape(-1, 2).astype(np.float32))[:, 0]


def fill(canvas: np.ndarray, polygon: np.ndarray, colour) -> None:
    """Fill one convex polygon (m, 2) of pixels in place. `colour`: (3,) BGR, which saturates, or an int for a mask."""
    cv2.fillConvexPoly(canvas, polygon.round().astype(np.int32), colour if isinstance(colour, int) else list(colour))


def skin_tone(rng: np.random.Generator) -> np.ndarray:
    """(3,) BGR of a random skin under a random light."""
    place = rng.uniform(0, len(SKIN_RGB) - 1)
    low = int(place)
    rgb = SKIN_RGB[low] + (place - low) * (SKIN_RGB[min(low + 1, len(SKIN_RGB) - 1)] - SKIN_RGB[low])
    rgb = rgb * rng.uniform(0.72, 1.08) * (1 + rng.normal(0, 0.045, 3))
    return np.clip(rgb[::-1], 15, 255)


def paint_limb(canvas: np.ndarray, limbs: list[np.ndarray], tone: np.ndarray, light: np.ndarray) -> None:
    """Paint hulls of circles as one rounded body, dark rim to lit top. tone: (3,) BGR; light: (2,) unit, towards it."""
    layers = LAYERS if max(limb[:, 3].max() for limb in limbs) > 9 else LAYERS[::2]  # canvas pixels
    shrink = layers[:, 0, None, None, None]
    bodies = []
    for limb in limbs:
        radius = limb[:, None, 3:4]
        points = limb[:, None, :2] + radius * (shrink * CIRCLE + (1 - shrink) * 0.55 * light)  # (layers, n, 14, 2)
        bodies.append(points.round().astype(np.int32).reshape(len(layers), -1, 2))
    for layer, shade in enumerate(layers[:, 1]):
        for body in bodies:
            cv2.fillConvexPoly(canvas, cv2.convexHull(body[layer]), (tone * shade).tolist())


def _finger(knuckle, length, radius, spread, flexion) -> np.ndarray:
    """(4, 4) circles knuckle to tip, hand frame. spread, flexion: radians; flexion adds up from joint to joint."""
    bend = np.cumsum(flexion)
    steps = np.stack([-np.sin(spread) * np.cos(bend), np.cos(spread) * np.cos(bend), np.sin(bend)], 1)
    joints = np.cumsum(steps * (PHALANGES * length)[:, None], 0)
    points = np.concatenate([np.zeros((1, 3)), joints]) + [knuckle[0], knuckle[1], 0]
    return np.column_stack([points, radius * TAPER])


def _thumb(abduction, bend, opposition) -> np.ndarray:
    """(4, 4) circles from the base of the thumb to its tip in the hand frame; angles in radians."""
    angle = abduction - bend * np.arange(3)
    steps = np.stack([-np.sin(angle) * np.cos(opposition), np.cos(angle) * np.cos(opposition),
                      np.full(3, np.sin(opposition))], 1) * np.array([[0.46], [0.38], [0.30]])
    points = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, 0)]) + [-0.26, 0.27, 0.06]
    return np.column_stack([points, [0.19, 0.145, 0.128, 0.105]])


def _bones(rng: np.random.Generator) -> list[np.ndarray]:
    """Five fingers (4, 4) in a random pose, hand frame."""
    fingers, thumb = POSES[rng.choice(list(POSES), p=POSE_WEIGHTS)]
    flexion = np.radians(np.array(fingers, float) * rng.uniform(0.8, 1.12) + rng.normal(0, 5, (4, 3)))
    straight = np.cos(flexion.sum(1)).clip(0.1, 1)  # bent fingers cannot spread
    spread = np.radians(rng.uniform(2, 13) * np.array([1.4, 0.45, -0.5, -1.5]) + rng.normal(0, 2, 4)) * straight
    length, thick = LENGTHS * rng.uniform(0.9, 1.1), RADII * rng.uniform(0.9, 1.12)
    limbs = [_finger(KNUCKLES[k], length[k], thick[k], spread[k], flexion[k].clip(-0.15, 1.8)) for k in range(4)]
    limbs.append(_thumb(*np.radians(np.array(thumb, float) + rng.normal(0, [6, 4, 6]))))
    return limbs


def _view(rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """(3, 3) rotation from the hand frame (mirrored for a left hand) to the image's, and whether the palm is seen."""
    palm_seen = bool(rng.random() < 0.5)
    yaw = np.radians(rng.normal(0, 28)) + (0 if palm_seen else np.pi)
    pitch, roll = np.radians(np.clip(rng.normal(0, 18), -42, 42)), rng.uniform(0, 2 * np.pi)
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    flip = np.diag([rng.choice([-1.0, 1.0]), 1, 1])
    return np.diag([1.0, -1, 1]) @ about_z @ about_x @ about_y @ flip, bool(np.cos(yaw) > 0)


def make_hand(rng: np.random.Generator, side_px: float, centre_xy) -> Hand:
    """A random hand whose upright box has `side_px` as its longer side and its centre at `centre_xy`; canvas pixels."""
    rotation, palm_seen = _view(rng)
    fingers = _bones(rng)
    web = np.array([fingers[4][0] * [1, 1, 1, 0.9], fingers[4][1] * [0.9, 0.9, 0.9, 0.8], [-0.30, 0.78, 0, 0.14]])
    bend = np.radians(rng.normal(0, 16))
    arm = np.zeros((3, 4))
    arm[:, 3] = [0.27, 0.40, 0.48]
    arm[1, :2] = np.array([np.sin(bend), -np.cos(bend)]) * rng.uniform(2.4, 3.0)
    elbow = bend + np.radians(rng.uniform(-100, 100))
    arm[2, :2] = arm[1, :2] + np.array([np.sin(elbow), -np.cos(elbow)]) * 3.0
    arm[0, :2] = [0, 0.08]

    def place(circles, scale=1.0, offset=(0.0, 0.0)):
        """Circles (n, 4) of one limb, turned, scaled and moved onto the canvas."""
        moved = np.column_stack([circles[:, :3] @ rotation.T, circles[:, 3]]) * scale
        moved[:, :2] += offset
        return moved

    def posed(scale, offset):
        """The hand with every limb placed."""
        limbs = [place(limb, scale, offset) for limb in (PALM, web, arm, *fingers)]
        return Hand(limbs[0], limbs[1], limbs[3:], limbs[2][0], limbs[2], palm_seen, scale)

    corners = posed(1.0, (0.0, 0.0)).corners_xy()
    low, high = corners.min(0), corners.max(0)
    scale = side_px / (high - low).max()
    return posed(scale, np.asarray(centre_xy) - (low + high) / 2 * scale)


class Ink(NamedTuple):
    """How a limb is painted. tone, line: (3,) BGR of skin and outline; width: of the outline, pixels; light: (2,)
    direction."""

    tone: np.ndarray
    line: np.ndarray
    width: float
    light: np.ndarray


def paint_hand(canvas: np.ndarray, hand: Hand, rng: np.random.Generator, tone: np.ndarray, light: np.ndarray) -> None:
    """Paint the hand (not its arm) on the BGR canvas in place: far fingers, palm, near fingers, then details."""
    ink = Ink(tone, tone * rng.uniform(0.38, 0.62), hand.scale * rng.uniform(0.012, 0.028) + 0.6, light)
    order = sorted(range(5), key=lambda k: hand.fingers[k][2:, 2].mean())
    behind = [k for k in order if hand.fingers[k][2:, 2].mean() < hand.fingers[k][0, 2] - 0.22 * hand.scale]
    for part in hand.parts:
        fill(canvas, part + np.sign(part - part.mean(0)) * ink.width * 0.5, ink.line)
    for k in behind:
        _paint_finger(canvas, hand, k, ink._replace(tone=tone * 0.9))
    paint_limb(canvas, [hand.palm, hand.web], tone, light)
    _paint_palm_details(canvas, hand, rng, tone)
    for k in order:
        if k not in behind:
            _paint_finger(canvas, hand, k, ink)
            _paint_finger_details(canvas, hand, k, tone)


def _paint_finger(canvas: np.ndarray, hand: Hand, k: int, ink: Ink) -> None:
    """Paint finger k: as one body where it is straight, bone by bone from far to near where it is bent."""
    finger = hand.fingers[k]
    bones = [finger[j:j + 2] for j in range(3)]
    reach = np.linalg.norm(finger[3, :2] - finger[0, :2]) / np.linalg.norm(np.diff(finger[:, :3], axis=0), axis=1).sum()
    root = finger[:1] + (hand.wrist - finger[0]) * [0.22, 0.22, 0.22, 0]
    joint = np.concatenate([root * [1, 1, 1, 0.8], finger[:1]])
    outline = finger[0] + (finger[1] - finger[0]) * np.array([0.35, 0.35, 0.35, 0])
    first = np.stack([outline, finger[1]])
    groups = [[joint, *bones]] if reach > 0.72 else sorted(([joint, bones[0]], [bones[1]], [bones[2]]),
                                                          key=lambda group: group[-1][:, 2].mean())
    for group in groups:
        for bone in group:
            if bone is not joint:
                fill(canvas, hull(first if bone is bones[0] else bone, grow=ink.width), ink.line)
        paint_limb(canvas, group, ink.tone, ink.light)


def _paint_finger_details(canvas: np.ndarray, hand: Hand, k: int, tone: np.ndarray) -> None:
    """Creases at the joints and, on the back, the nail. Only where the bone lies flat enough to show them."""
    finger = hand.fingers[k]
    for j in (1, 2):
        along = finger[j + 1, :2] - finger[j - 1, :2]
        length = np.linalg.norm(along)
        if length < finger[j, 3] * 1.5:
            continue
        across = np.array([-along[1], along[0]]) / length * finger[j, 3] * 0.72
        ends = np.round([finger[j, :2] - across, finger[j, :2] + across]).astype(int)
        cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), (tone * 0.78).tolist(), max(1, round(hand.scale * 0.014)))
    along = finger[3, :2] - finger[2, :2]
    if not hand.palm_seen and np.linalg.norm(along) > finger[3, 3] * 1.1:
        centre = finger[3, :2] + along * 0.08
        angle = float(np.degrees(np.arctan2(along[1], along[0])))
        box = (centre.tolist(), (finger[3, 3] * 1.25, finger[3, 3] * 1.0), angle)
        cv2.ellipse(canvas, box, (tone * 0.72).tolist(), -1)
        box = (centre.tolist(), (finger[3, 3] * 1.1, finger[3, 3] * 0.85), angle)
        cv2.ellipse(canvas, box, np.clip(tone * [1.04, 1.02, 1.1] + 14, 0, 255).tolist(), -1)


def _paint_palm_details(canvas: np.ndarray, hand: Hand, rng: np.random.Generator, tone: np.ndarray) -> None:
    """Palm: the three large lines. Back: tendons and knuckles."""
    thick = max(1, round(hand.scale * 0.018))

    def at(index, pinky, up):
        """Point of the palm: `index` to `pinky` across (weights), `up` from the wrist."""
        knuckle = hand.fingers[0][0, :2] * index + hand.fingers[3][0, :2] * pinky
        return hand.wrist[:2] + (knuckle - hand.wrist[:2]) * up

    if hand.palm_seen:
        curves = ([at(0.0, 1.05, 0.80), at(0.45, 0.55, 0.70), at(0.85, 0.15, 0.88)],
                  [at(1.1, -0.1, 0.66), at(0.6, 0.4, 0.55), at(0.05, 0.95, 0.42)],
                  [at(1.08, -0.08, 0.62), at(0.65, 0.35, 0.42), at(0.55, 0.45, 0.12)])
        for curve in curves:
            dark = (tone * rng.uniform(0.7, 0.82)).tolist()
            cv2.polylines(canvas, [np.round(_bezier(curve)).astype(np.int32)], False, dark, thick)
        return
    for k in range(4):
        root = hand.fingers[k][0]
        start = hand.wrist[:2] + (root[:2] - hand.wrist[:2]) * 0.45
        cv2.line(canvas, np.round(start).astype(int).tolist(), np.round(root[:2]).astype(int).tolist(),
                 np.clip(tone * 1.07, 0, 255).tolist(), max(1, round(hand.scale * 0.05)))


def _bezier(points) -> np.ndarray:
    """(9, 2) points of the quadratic curve through the control points (3, 2)."""
    t = np.linspace(0, 1, 9)[:, None]
    p = np.asarray(points, float)
    return (1 - t) ** 2 * p[0] + 2 * t * (1 - t) * p[1] + t ** 2 * p[2]


def paint_arm(canvas: np.ndarray, hand: Hand, rng: np.random.Generator, tone: np.ndarray, light: np.ndarray) -> None:
    """Paint forearm and upper arm on the canvas in place, bare or in a sleeve that starts below the wrist."""
    cloth = rng.uniform(15, 235, 3) if rng.random() < 0.7 else skin_tone(rng) * rng.uniform(0.8, 1.2)
    forearm, upper = hand.arm[:2], hand.arm[1:]
    start = rng.uniform(0.06, 0.4) if rng.random() < 0.6 else rng.uniform(0.5, 1.0)
    cuff = forearm[0] + (forearm[1] - forearm[0]) * start
    cuff[3] *= 1.12
    sleeve = np.stack([cuff, forearm[1] * [1, 1, 1, 1.12]])
    fill(canvas, hull(forearm, grow=1.5), tone * 0.5)
    paint_limb(canvas, [upper * [1, 1, 1, 1.15]], cloth * 0.92, light)
    paint_limb(canvas, [forearm], tone * 0.97, light)
    paint_limb(canvas, [sleeve], cloth, light)
    if rng.random() < 0.5:
        band = np.stack([cuff, cuff + (forearm[1] - cuff) * np.array([0.08, 0.08, 0.08, 0.0])])
        paint_limb(canvas, [band * [1, 1, 1, 1.04]], cloth * rng.uniform(0.6, 1.3), light)


def finish(canvas: np.ndarray, mask: np.ndarray, scale: float, rng: np.random.Generator) -> None:
    """Soften the layers and let light fall off across the object, in place. canvas (h, w, 3), mask (h, w) 0/1."""
    sigma = max(0.6, scale * rng.uniform(0.012, 0.03))
    soft = cv2.GaussianBlur(canvas, (0, 0), sigma)
    ramp = cv2.resize(rng.uniform(0.72, 1.15, (2, 2)).astype(np.float32), canvas.shape[1::-1])
    soft = cv2.multiply(soft, cv2.merge([ramp] * 3), dtype=cv2.CV_8U)
    cv2.copyTo(soft, mask, canvas)
