//! Median and spread of a handful of figures.

use serde::Serialize;

/// Median, extremes and number of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The middle figure, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// How many.
    pub count: usize,
}

impl Summary {
    /// Of all figures that are numbers; `None` if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|f| f.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let count = sorted.len();
        let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
        Some(Self {
            median,
            min,
            max,
            count,
        })
    }

    /// Whether the ranges of two summaries have no point in common.
    pub fn apart_from(&self, other: &Self) -> bool {
        self.max < other.min || other.max < self.min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Summary::of([3.0, 1.0, 2.0]).unwrap().median, 2.0);
        let even = Summary::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            (even.median, even.min, even.max, even.count),
            (2.5, 1.0, 4.0, 4)
        );
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN, 7.0]).unwrap().count, 1);
    }

    #[test]
    fn ranges_that_touch_are_not_apart() {
        let low = Summary::of([1.0, 2.0]).unwrap();
        let high = Summary::of([2.5, 3.0]).unwrap();
        let both = Summary::of([2.0, 3.0]).unwrap();
        assert!(low.apart_from(&high) && high.apart_from(&low));
        assert!(!low.apart_from(&both));
    }
}
