# Before what asks name servers, which do not know these names and may be slow or curious.
hosts before=resolve,dns vsock
