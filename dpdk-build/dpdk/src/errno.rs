//! Error numbers, parsed once where they come from C.

use std::fmt;

/// An error number of the C library, or one of DPDK's own (above 1000).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// From DPDK's `rte_errno` of the calling thread.
    pub(crate) fn last() -> Errno {
        Errno(crate::eal::raw_errno())
    }

    /// From a negative return value.
    pub(crate) fn from_negative(value: i32) -> Errno {
        Errno(value.saturating_neg())
    }

    pub(crate) fn from_raw(value: i32) -> Errno {
        Errno(value)
    }

    /// The number, for example 22 for EINVAL.
    pub fn raw(self) -> i32 {
        self.0
    }

    fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EIO => "EIO",
            libc::ENXIO => "ENXIO",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::ENFILE => "ENFILE",
            libc::EMFILE => "EMFILE",
            libc::ENOSPC => "ENOSPC",
            libc::ERANGE => "ERANGE",
            libc::ENAMETOOLONG => "ENAMETOOLONG",
            libc::ENOSYS => "ENOSYS",
            libc::EPROTO => "EPROTO",
            libc::ENOTSUP => "ENOTSUP",
            libc::EALREADY => "EALREADY",
            1001 => "E_RTE_SECONDARY",
            1002 => "E_RTE_NO_CONFIG",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            1001 => "not possible in a secondary process".to_owned(),
            1002 => "DPDK is not initialised".to_owned(),
            number => {
                let text = std::io::Error::from_raw_os_error(number).to_string();
                match text.find(" (os error") {
                    Some(end) => text[..end].to_owned(),
                    None => text,
                }
            }
        };
        match self.name() {
            Some(name) => write!(f, "{text} ({name})"),
            None => write!(f, "{text} (errno {})", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn says_the_text_and_the_name() {
        assert_eq!(
            Errno::from_negative(-22).to_string(),
            "Invalid argument (EINVAL)"
        );
        assert_eq!(
            Errno::from_raw(1002).to_string(),
            "DPDK is not initialised (E_RTE_NO_CONFIG)"
        );
        assert_eq!(Errno::from_raw(71), Errno::from_negative(-71));
    }

    #[test]
    fn an_unnamed_number_is_still_shown() {
        assert!(
            Errno::from_raw(libc::EXDEV)
                .to_string()
                .ends_with("(errno 18)")
        );
    }
}
