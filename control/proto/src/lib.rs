//! ringway.v1: the gRPC control protocol.
