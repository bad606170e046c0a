error: device '0000:02:00.0' assigned more than once
