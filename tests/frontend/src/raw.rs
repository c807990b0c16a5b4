//! vhost-user messages as bytes, to be sent well-formed or not.

use vhost::vhost_user::message::FrontendReq;

/// Header flags of protocol version 1.
pub const VERSION: u32 = 1;
/// Header flag: the frontend wants an answer.
pub const NEED_REPLY: u32 = 1 << 3;
/// Header flag: this is an answer.
pub const REPLY: u32 = 1 << 2;
/// Bit of a SET_VRING_KICK/CALL/ERR payload: no file descriptor comes along.
pub const NO_FD: u64 = 1 << 8;

/// A message under construction: any request number, flags, size and body.
#[derive(Clone, Debug)]
pub struct RawMessage {
    /// Request number.
    pub request: u32,
    /// Header flags, with the version in the lowest two bits.
    pub flags: u32,
    /// What the header says the body's size is; `None` is the truth.
    pub claimed_size: Option<u32>,
    /// The body.
    pub body: Vec<u8>,
}

impl RawMessage {
    /// A well-formed message with `body`.
    pub fn new(request: FrontendReq, body: Vec<u8>) -> Self {
        Self::numbered(request.into(), body)
    }

    /// A message with a request number that may not exist.
    pub fn numbered(request: u32, body: Vec<u8>) -> Self {
        Self {
            request,
            flags: VERSION,
            claimed_size: None,
            body,
        }
    }

    /// A request with a `u64` body.
    pub fn with_u64(request: FrontendReq, value: u64) -> Self {
        Self::new(request, value.to_le_bytes().to_vec())
    }

    /// A request with a vring state body: queue index and number.
    pub fn vring_state(request: FrontendReq, index: u32, num: u32) -> Self {
        let mut body = index.to_le_bytes().to_vec();
        body.extend(num.to_le_bytes());
        Self::new(request, body)
    }

    /// SET_VRING_ADDR with user addresses as given.
    pub fn vring_addr(index: u32, flags: u32, desc: u64, used: u64, avail: u64, log: u64) -> Self {
        let mut body = index.to_le_bytes().to_vec();
        body.extend(flags.to_le_bytes());
        for address in [desc, used, avail, log] {
            body.extend(address.to_le_bytes());
        }
        Self::new(FrontendReq::SET_VRING_ADDR, body)
    }

    /// SET_MEM_TABLE with `(gpa, size, user address, mmap offset)` per region;
    /// `count` is what the message claims.
    pub fn mem_table(count: u32, regions: &[(u64, u64, u64, u64)]) -> Self {
        let mut body = count.to_le_bytes().to_vec();
        body.extend(0_u32.to_le_bytes());
        for &(gpa, size, user, offset) in regions {
            for value in [gpa, size, user, offset] {
                body.extend(value.to_le_bytes());
            }
        }
        Self::new(FrontendReq::SET_MEM_TABLE, body)
    }

    /// The same message with other header flags.
    pub fn flags(mut self, flags: u32) -> Self {
        self.flags = flags;
        self
    }

    /// The same message with a header that claims another body size.
    pub fn claim_size(mut self, size: u32) -> Self {
        self.claimed_size = Some(size);
        self
    }

    /// The bytes to put on the socket.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self.claimed_size.unwrap_or(self.body.len() as u32);
        let mut bytes = Vec::with_capacity(12 + self.body.len());
        for word in [self.request, self.flags, size] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&self.body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_request_flags_size_body() {
        let bytes =
            RawMessage::vring_state(FrontendReq::SET_VRING_NUM, 0x0001_0000, 256).to_bytes();
        assert_eq!(bytes[..12], [8, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!(bytes[12..], [0, 0, 1, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_header_may_lie_about_its_size() {
        let bytes = RawMessage::with_u64(FrontendReq::SET_FEATURES, 1)
            .claim_size(0xffff)
            .to_bytes();
        assert_eq!(bytes[8..12], [0xff, 0xff, 0, 0]);
        assert_eq!(bytes.len(), 20);
    }
}
