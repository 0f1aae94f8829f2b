"""The Lua scripts that keep claims alive, free those of the dead, and trim."""

from __future__ import annotations

from typing import Final

from bus.transports.redis.connection import Script
from bus.transports.redis.keys import OURS
from bus.transports.redis.lua import BEHIND, FREE, HOLDER, PUT_BACK, WAKE

# Gives back, uncounted, what stands under this consumer's name and what it never saw: the answer of a read was lost.
# KEYS: wake, then streams. ARGV: group, consumer, then the ids that it holds, each with the place of its stream before.
RECONCILE: Final = Script(
    FREE
    + WAKE
    + """
local group, me = ARGV[1], ARGV[2]
local held = {}
for at = 3, #ARGV, 2 do held[ARGV[at] .. ' ' .. ARGV[at + 1]] = true end
local given = 0
for place = 2, #KEYS do
  local after = '-'
  repeat
    local pending = redis.pcall('XPENDING', KEYS[place], group, after, '+', 100, me)
    if pending.err then break end
    for _, each in ipairs(pending) do
      after = '(' .. each[1]
      if not held[place .. ' ' .. each[1]] then
        redis.call('XCLAIM', KEYS[place], group, free, 0, each[1], 'RETRYCOUNT', each[4] - 1, 'JUSTID')
        given = given + 1
      end
    end
  until #pending < 100
end
if given > 0 then wake(KEYS[1], 0) end
return given
"""
)

# Keeps a consumer and its claims alive. KEYS: alive, taken, then streams. ARGV: group, consumer, how long it lives;
# then stream and id of each claim. Answers with the claims, by their number, that are somebody else's.
BEAT: Final = Script(
    HOLDER
    + """
local group, me = ARGV[1], ARGV[2]
redis.call('HDEL', KEYS[2], '')
redis.call('SET', KEYS[1], '1', 'PX', ARGV[3])
local lost = {}
for at = 4, #ARGV, 2 do
  local stream, id = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  if holder(stream, group, id) == me then
    -- Its time begins anew and its count stays: PHP workers take what has been idle for long.
    redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
  else
    lost[#lost + 1] = (at - 4) / 2
  end
end
return lost
"""
)

# Finds consumers that hold something and do not live, and frees what PHP workers left. KEYS: taken, then streams. ARGV:
# group, consumer, what keys of the living begin with, and after how long PHP workers have left something (0: do not
# look). Answers with the names, and how many messages of PHP workers were freed.
SURVEY: Final = Script(
    FREE
    + f"local ours = '{OURS}'\n"
    + """
local group, me, living, idle = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local names, seen, freed = {}, {}, 0
local function is_dead(name)
  return name ~= me and not seen[name] and redis.call('EXISTS', living .. name) == 0
end
for place = 2, #KEYS do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[place], group)
  if consumers.err then consumers = {} end
  for _, each in ipairs(consumers) do
    local fields = {}
    for at = 1, #each, 2 do fields[each[at]] = each[at + 1] end
    local name = fields['name']
    if string.find(name, ours) then
      if is_dead(name) then
        seen[name] = true
        names[#names + 1] = name
      end
    elseif name ~= free and idle > 0 and fields['pending'] > 0 then
      local left = redis.call('XPENDING', KEYS[place], group, 'IDLE', idle, '-', '+', 100, name)
      for _, entry in ipairs(left) do
        redis.call('XCLAIM', KEYS[place], group, free, 0, entry[1], 'RETRYCOUNT', entry[4], 'JUSTID')
        freed = freed + 1
      end
    end
  end
end
local records = redis.call('HVALS', KEYS[1])
for _, record in ipairs(records) do
  local name = cmsgpack.unpack(record)[1]
  if is_dead(name) then
    seen[name] = true
    names[#names + 1] = name
  end
end
return {names, freed}
"""
)

# Frees what a dead consumer holds, at most 100 of a stream at once, and forgets its name when nothing is left.
# KEYS: wake, taken, the key of its life, then streams. ARGV: group, its name. Answers how many were freed.
RECOVER: Final = Script(
    FREE
    + WAKE
    + """
local group, dead, taken = ARGV[1], ARGV[2], KEYS[2]
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
redis.call('HDEL', taken, '')
"""
    + PUT_BACK
    + """
local freed = 0
for place = 4, #KEYS do
  local pending = redis.pcall('XPENDING', KEYS[place], group, '-', '+', 100, dead)
  if not pending.err then
    for _, each in ipairs(pending) do
      redis.call('XCLAIM', KEYS[place], group, free, 0, each[1], 'IDLE', 86400000, 'RETRYCOUNT', each[4], 'JUSTID')
      freed = freed + 1
    end
    local left = redis.call('XPENDING', KEYS[place], group, '-', '+', 1, dead)
    if #left == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[place], group, dead) end
  end
end
for _, field in ipairs(redis.call('HKEYS', taken)) do
  local record = redis.call('HGET', taken, field)
  if cmsgpack.unpack(record)[1] == dead then
    put_back(field)
    freed = freed + 1
  end
end
if freed > 0 then wake(KEYS[1], 0) end
return freed
"""
)

# Forgets a consumer where it holds nothing. KEYS: alive, then streams. ARGV: group, consumer.
LEAVE: Final = Script("""
redis.call('DEL', KEYS[1])
for place = 2, #KEYS do
  local left = redis.pcall('XPENDING', KEYS[place], ARGV[1], '-', '+', 1, ARGV[2])
  if not left.err and #left == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[place], ARGV[1], ARGV[2]) end
end
return 1
""")

# Removes the oldest entries that every group is done with, as long as there are more than ARGV[1].
TRIM: Final = Script(
    BEHIND
    + """
local most = tonumber(ARGV[1])
local length = redis.call('XLEN', KEYS[1])
if length <= most then return 0 end
local found = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if found.err or #found == 0 then return 0 end
local needed = false
for _, each in ipairs(found) do
  local fields = {}
  for at = 1, #each, 2 do fields[each[at]] = each[at + 1] end
  local first = fields['last-delivered-id']
  local pending = redis.call('XPENDING', KEYS[1], fields['name'])
  local keeps_first = pending[1] > 0
  if keeps_first and not behind(pending[2], first) then first = pending[2] else keeps_first = false end
  -- The last delivered entry itself is done with; a pending one is not.
  if not needed or behind(needed.id, first) or (needed.id == first and keeps_first) then
    needed = {id = first, keep = keeps_first}
  end
end
local removed = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', needed.id, 'COUNT', math.min(length - most, 200))) do
  if entry[1] ~= needed.id or not needed.keep then
    removed = removed + redis.call('XDEL', KEYS[1], entry[1])
  end
end
return removed
"""
)

# Names the consumers that hold entries, but for the one that nobody is. KEYS: streams. ARGV: group.
HOLDERS: Final = Script(
    FREE
    + """
local names = {}
for _, stream in ipairs(KEYS) do
  local pending = redis.pcall('XPENDING', stream, ARGV[1])
  if not pending.err and pending[4] then
    for _, each in ipairs(pending[4]) do
      if each[1] ~= free then names[#names + 1] = each[1] end
    end
  end
end
return names
"""
)
