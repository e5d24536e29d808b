"""What a day of a sensor is described by: functions of arrays, one day in, one vector out; NaN = cannot be computed.

:mod:`.motion` (accelerometer and gyroscope), :mod:`.heart`, :mod:`.steps` and :mod:`.sleep` hold definitions, units
and sources; :mod:`.names` the order.
"""
