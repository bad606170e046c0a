error: legacy IGD assignment requires VGA mode to be 'none'
