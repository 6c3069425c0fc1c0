//! Sizes and rectangles: what part of an image a variant shows, how large, and where that is in the stored pixels.

use crate::settings::{Fit, Gravity, Target};

/// A rectangle in pixels, not necessarily whole ones, from the top left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rect {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Rect {
    pub(crate) fn whole(width: u32, height: u32) -> Self {
        Self { left: 0.0, top: 0.0, width: f64::from(width), height: f64::from(height) }
    }

    /// True where `other` lies inside, give or take rounding.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        const SLACK: f64 = 1e-6;
        self.left <= other.left + SLACK
            && self.top <= other.top + SLACK
            && self.left + self.width >= other.left + other.width - SLACK
            && self.top + self.height >= other.top + other.height - SLACK
    }

    /// The same rectangle seen from one whose top left is at `origin`, in pixels `scale` times as many.
    pub(crate) fn relative_to(&self, origin: (f64, f64), scale: (f64, f64)) -> Self {
        Self {
            left: (self.left - origin.0) * scale.0,
            top: (self.top - origin.1) * scale.1,
            width: self.width * scale.0,
            height: self.height * scale.1,
        }
    }

    /// Where a rectangle of the displayed image lies in the stored one (EXIF 2.32, table 6). `width` and `height` are the stored size.
    pub(crate) fn to_stored(self, orientation: u8, width: f64, height: f64) -> Self {
        let turned = if orientation >= 5 {
            Self { left: self.top, top: self.left, width: self.height, height: self.width }
        } else {
            self
        };
        let (flips_x, flips_y) = flips(orientation);
        Self {
            left: if flips_x { width - turned.left - turned.width } else { turned.left },
            top: if flips_y { height - turned.top - turned.height } else { turned.top },
            ..turned
        }
    }
}

/// Which axes of the *stored* image run backwards in the displayed one.
pub(crate) fn flips(orientation: u8) -> (bool, bool) {
    (matches!(orientation, 2 | 3 | 7 | 8), matches!(orientation, 3 | 4 | 6 | 7))
}

/// The part of a `width` x `height` image that `target` shows, and the size of the result. Never enlarges; sides are at least 1.
pub(crate) fn place(target: Target, width: u32, height: u32) -> (Rect, u32, u32) {
    let whole = Rect::whole(width, height);
    match target {
        Target::LongEdge(edge) => {
            let (w, h) = scale_into(width, height, edge, edge);
            (whole, w, h)
        }
        Target::Box { width: box_w, height: box_h, fit: Fit::Inside } => {
            let (w, h) = scale_into(width, height, box_w, box_h);
            (whole, w, h)
        }
        Target::Box { width: box_w, height: box_h, fit: Fit::Cover(gravity) } => cover(whole, box_w, box_h, gravity),
    }
}

fn scale_into(width: u32, height: u32, max_w: u32, max_h: u32) -> (u32, u32) {
    let scale = (f64::from(max_w) / f64::from(width)).min(f64::from(max_h) / f64::from(height)).min(1.0);
    let side = |length: u32, max: u32| ((f64::from(length) * scale).round() as u32).clamp(1, max.min(length));
    (side(width, max_w), side(height, max_h))
}

fn cover(whole: Rect, box_w: u32, box_h: u32, gravity: Gravity) -> (Rect, u32, u32) {
    let shape = f64::from(box_w) / f64::from(box_h);
    let (width, height) = if whole.width / whole.height > shape {
        (whole.height * shape, whole.height)
    } else {
        (whole.width, whole.width / shape)
    };
    // At least a pixel: an extreme shape on a thin image would leave nothing.
    let (width, height) = (width.clamp(1.0, whole.width), height.clamp(1.0, whole.height));
    let place = |room: f64, whole: f64, anchor: Anchor| match anchor {
        Anchor::Edge(fraction) => room * fraction,
        Anchor::Point(fraction) => (whole * fraction - (whole - room) / 2.0).clamp(0.0, room),
    };
    let (x, y) = anchors(gravity);
    let (room_x, room_y) = (whole.width - width, whole.height - height);
    let rect = Rect { left: place(room_x, whole.width, x), top: place(room_y, whole.height, y), width, height };
    let out_w = (width.round() as u32).clamp(1, box_w);
    let out_h = (height.round() as u32).clamp(1, box_h);
    (rect, out_w, out_h)
}

/// Where along an axis the kept part lies.
enum Anchor {
    /// This fraction of what is cut off goes before it.
    Edge(f64),
    /// Its middle is this fraction along the axis, as far as the edges allow.
    Point(f64),
}

fn anchors(gravity: Gravity) -> (Anchor, Anchor) {
    let (x, y) = anchor_fractions(gravity);
    match gravity {
        Gravity::Focal { .. } => (Anchor::Point(x), Anchor::Point(y)),
        _ => (Anchor::Edge(x), Anchor::Edge(y)),
    }
}

/// Where a gravity points to, as fractions of width and height.
pub(crate) fn anchor_fractions(gravity: Gravity) -> (f64, f64) {
    match gravity {
        Gravity::Focal { x, y } => (f64::from(x), f64::from(y)),
        Gravity::Centre => (0.5, 0.5),
        Gravity::North => (0.5, 0.0),
        Gravity::NorthEast => (1.0, 0.0),
        Gravity::East => (1.0, 0.5),
        Gravity::SouthEast => (1.0, 1.0),
        Gravity::South => (0.5, 1.0),
        Gravity::SouthWest => (0.0, 1.0),
        Gravity::West => (0.0, 0.5),
        Gravity::NorthWest => (0.0, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_enlarged_and_no_side_vanishes() {
        assert_eq!(place(Target::LongEdge(2048), 100, 50).1, 100);
        assert_eq!(place(Target::LongEdge(320), 16_000, 10), (Rect::whole(16_000, 10), 320, 1));
        assert_eq!(place(Target::LongEdge(2048), 4000, 3000), (Rect::whole(4000, 3000), 2048, 1536));
    }

    #[test]
    fn cover_keeps_the_shape_of_the_box_on_a_small_image() {
        let fit = Fit::Cover(Gravity::Centre);
        let (rect, width, height) = place(Target::Box { width: 400, height: 200, fit }, 100, 100);
        assert_eq!((rect.top, rect.height), (25.0, 50.0));
        assert_eq!((width, height), (100, 50));
    }

    #[test]
    fn a_focal_point_is_centred_as_far_as_the_edges_allow() {
        let at = |x| {
            place(Target::Box { width: 100, height: 100, fit: Fit::Cover(Gravity::Focal { x, y: 0.5 }) }, 400, 100)
                .0
                .left
        };
        assert_eq!(at(0.5), 150.0);
        assert_eq!(at(0.25), 50.0);
        assert_eq!(at(0.0), 0.0);
        assert_eq!(at(1.0), 300.0);
    }

    #[test]
    fn stored_rectangles_follow_the_orientation() {
        let corner = Rect { left: 0.0, top: 0.0, width: 10.0, height: 20.0 };
        // Orientation 6: the stored image is turned clockwise for display, so the displayed top left is the stored bottom left.
        assert_eq!(corner.to_stored(6, 400.0, 300.0), Rect { left: 0.0, top: 290.0, width: 20.0, height: 10.0 });
        assert_eq!(corner.to_stored(3, 400.0, 300.0), Rect { left: 390.0, top: 280.0, width: 10.0, height: 20.0 });
    }
}
