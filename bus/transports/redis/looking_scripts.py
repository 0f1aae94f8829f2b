"""The Lua scripts that count messages, look at them, and take one by its id."""

from __future__ import annotations

from typing import Final

from bus.transports.redis.connection import Script
from bus.transports.redis.lua import BEHIND, FREE, HOLDER, LAST, VALUE

# Claims one message. KEYS: alive, taken, and the stream or sorted set where it stands. ARGV: group, consumer, how long
# it lives, where it stands (entry, delayed or parked), its id there, its id for us, and of a delayed one its score.
# Answers {value, deliveries, whether it was taken out}, or nothing.
TAKE: Final = Script(
    FREE
    + LAST
    + VALUE
    + HOLDER
    + BEHIND
    + """
local group, me, source, id = ARGV[1], ARGV[2], KEYS[3], ARGV[5]
redis.call('HDEL', KEYS[2], '')
redis.call('SET', KEYS[1], '1', 'PX', ARGV[3])

local function take_out(state, score, value)
  redis.call('HSET', KEYS[2], ARGV[6], cmsgpack.pack({me, state, source, score, value}))
  return {value, 1, 1}
end

if ARGV[4] == 'delayed' then
  for _, value in ipairs(redis.call('ZRANGEBYSCORE', source, ARGV[7], ARGV[7])) do
    if string.sub(redis.sha1hex(value), 1, #id) == id then
      redis.call('ZREM', source, value)
      return take_out('delayed', ARGV[7], value)
    end
  end
  return false
end
local entry = redis.pcall('XRANGE', source, id, id)
if entry.err or not entry[1] then return false end
local value = value_of(entry[1][2])
if ARGV[4] == 'parked' then
  redis.call('XDEL', source, id)
  return take_out('parked', '', value)
end
local by, before = holder(source, group, id)
if by and by ~= free then return false end
if by then
  redis.call('XCLAIM', source, group, me, 0, id)
  return {value, before + 1, 0}
end
local last = last_delivered(source, group)
if last and not behind(id, last) then return false end
local found = redis.pcall('XINFO', 'GROUPS', source)
-- Other groups have still to read it.
if not found.err and #found > 1 then return false end
redis.call('XDEL', source, id)
return take_out('ready', '', value)
"""
)

# KEYS: taken, parked, then stream and queue of each lane. ARGV: group.
COUNT: Final = Script(
    FREE
    + LAST
    + """
local group = ARGV[1]
local ready, delayed, held = 0, 0, redis.call('HLEN', KEYS[1])

-- Redis does not know how many wait once one was deleted that had not been read.
local function count_behind(stream, last)
  local length, read, after = redis.call('XLEN', stream), 0, '-'
  repeat
    local page = redis.call('XRANGE', stream, after, last, 'COUNT', 1000)
    read = read + #page
    if #page > 0 then after = '(' .. page[#page][1] end
  until #page < 1000
  return length - read
end

for at = 3, #KEYS, 2 do
  local stream = KEYS[at]
  delayed = delayed + redis.call('ZCARD', KEYS[at + 1])
  local last, lag, pending = last_delivered(stream, group)
  if not last then
    ready = ready + redis.call('XLEN', stream)
  else
    if not lag then lag = count_behind(stream, last) end
    local waiting = 0
    for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
      local fields = {}
      for place = 1, #each, 2 do fields[each[place]] = each[place + 1] end
      if fields['name'] == free then waiting = fields['pending'] end
    end
    ready = ready + lag + waiting
    held = held + pending - waiting
  end
end
return {ready, delayed, held, redis.call('XLEN', KEYS[2])}
"""
)

# Looks at a page of a stream. KEYS: stream. ARGV: group, from which id, at most how many.
# Answers with the last id that was looked at, and {id, value, state} of those that are not done with.
LOOK: Final = Script(
    FREE
    + LAST
    + VALUE
    + HOLDER
    + BEHIND
    + """
local group, found, seen = ARGV[1], {}, ''
local last = last_delivered(KEYS[1], group)
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', ARGV[3])) do
  seen = entry[1]
  local by = holder(KEYS[1], group, seen)
  if by and by ~= free then
    found[#found + 1] = {seen, value_of(entry[2]), 'in_flight'}
  elseif by or not last or behind(seen, last) then
    found[#found + 1] = {seen, value_of(entry[2]), 'ready'}
  end
end
return {seen, found}
"""
)

# What was taken by its id. KEYS: taken. Answers {id, value} of each.
TAKEN: Final = Script("""
local found = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  found[#found + 1] = {field, cmsgpack.unpack(redis.call('HGET', KEYS[1], field))[5]}
end
return found
""")
