error: Custom cputype 'none' not found
