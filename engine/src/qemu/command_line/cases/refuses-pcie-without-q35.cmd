error: q35 machine model is not enabled
