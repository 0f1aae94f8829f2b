"""The Lua scripts of the traffic: each is one step, made wholly or not at all, on the time of the server.

KEYS and ARGV of each are what ``streams.py`` and ``sending.py`` pass. A script that may run while the server is out of
memory begins with a write that needs none: Redis refuses a script whose first write needs some, and none after that, so
that messages can be handled and removed then.
"""

from __future__ import annotations

from typing import Final

from bus.transports.redis.connection import Script
from bus.transports.redis.lua import FREE, GROUPS, HOLDER, LAST, MOVE_DUE, PUT_BACK, TIME, VALUE, WAKE

# KEYS: token, wake, main stream, and those that the arguments name by their places.
# ARGV: how long the token is kept; at most so many entries; then for each message: stream, queue, the same two of the
# group's own lane (0: for all groups), delay, value, and the number of tokens of earlier sends, with their places.
SEND: Final = Script(
    TIME
    + GROUPS
    + WAKE
    + """
local keep, most = ARGV[1], tonumber(ARGV[2])
-- Another send of these messages began after this one had lasted too long.
if redis.call('GET', KEYS[1]) == 'void' then return redis.error_reply('VOID sent again meanwhile') end
redis.call('SET', KEYS[1], 'done', 'PX', keep)
local at, results = 3, {}
while at <= #ARGV do
  local stream, queue = KEYS[tonumber(ARGV[at])], KEYS[tonumber(ARGV[at + 1])]
  if ARGV[at + 2] ~= '0' and groups(KEYS[3]) > 1 then
    stream, queue = KEYS[tonumber(ARGV[at + 2])], KEYS[tonumber(ARGV[at + 3])]
  end
  local delay, value, earlier = tonumber(ARGV[at + 4]), ARGV[at + 5], tonumber(ARGV[at + 6])
  at = at + 7
  local stored = false
  for _ = 1, earlier do
    local token = KEYS[tonumber(ARGV[at])]
    stored = stored or redis.call('GET', token) == 'done'
    redis.call('SET', token, 'void', 'NX', 'PX', keep)
    at = at + 1
  end
  if stored then
    results[#results + 1] = ''
  elseif delay > 0 then
    local due = math.min(now + delay, 253370764799999)
    local head = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
    redis.call('ZADD', queue, due, value)
    if not head[2] or due < tonumber(head[2]) then wake(KEYS[2], due) end
    results[#results + 1] = ''
  else
    results[#results + 1] = redis.call('XADD', stream, '*', 'message', value)
  end
end
return results
"""
)

# KEYS: alive, taken, then stream and queue of each lane. ARGV: group, consumer, limit, whether groups are created, how
# long the consumer lives, and the main stream, which is created too.
# Answers: entries as {lane, id, value, deliveries}, whether more can be read at once, and whether the group of the main
# stream was created.
GET: Final = Script(
    TIME
    + VALUE
    + FREE
    + MOVE_DUE
    + """
local group, me, limit, create = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
redis.call('HDEL', KEYS[2], '')
redis.call('SET', KEYS[1], '1', 'PX', ARGV[5])
local found, created, more, alone = {}, 0, 0, false

local function read_free(lane, stream)
  local pending = redis.pcall('XPENDING', stream, group, '-', '+', limit - #found, free)
  if pending.err then return end
  for _, each in ipairs(pending) do
    local id, before = each[1], each[4]
    -- One that was delivered before comes alone.
    if before > 0 and #found > 0 then
      alone, more = true, 1
      return
    end
    local claimed = redis.call('XCLAIM', stream, group, me, 0, id)
    if claimed[1] and claimed[1][2] then
      found[#found + 1] = {lane, id, value_of(claimed[1][2]), before + 1}
      if before > 0 then
        alone, more = true, 1
        return
      end
    else
      redis.call('XACK', stream, group, id)
      found[#found + 1] = {lane, id, false, before + 1}
    end
  end
end

local function read_new(lane, stream)
  local answer = redis.pcall('XREADGROUP', 'GROUP', group, me, 'COUNT', limit - #found, 'STREAMS', stream, '>')
  if not answer then return false end
  if answer.err then return answer.err end
  for _, entry in ipairs(answer[1][2]) do
    found[#found + 1] = {lane, entry[1], value_of(entry[2]), 1}
  end
  return false
end

for lane = 1, (#KEYS - 2) / 2 do
  local stream, queue = KEYS[2 * lane + 1], KEYS[2 * lane + 2]
  move_due(stream, queue)
  if not alone and #found < limit and (stream == ARGV[6] or redis.call('EXISTS', stream) == 1) then
    read_free(lane, stream)
    if not alone and #found < limit then
      local failed = read_new(lane, stream)
      if failed and string.find(failed, 'NOGROUP', 1, true) and create then
        redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
        if stream == ARGV[6] then created = 1 end
        failed = read_new(lane, stream)
      end
      if failed then return redis.error_reply(failed) end
    end
  end
end
if due and due <= now then more = 1 end
return {found, more, created}
"""
)

# What a reader that found nothing waits for. KEYS: stream and queue of each lane. ARGV: group. Answers with the
# milliseconds until something can be read (-1: until something arrives), and behind which entry of each stream the
# group has not read.
AHEAD: Final = Script(
    TIME
    + LAST
    + FREE
    + MOVE_DUE
    + """
local group, left, positions = ARGV[1], false, {}
for at = 1, #KEYS, 2 do
  move_due(KEYS[at], KEYS[at + 1])
  local pending = redis.pcall('XPENDING', KEYS[at], group, '-', '+', 1, free)
  left = left or (not pending.err and #pending > 0)
  positions[#positions + 1] = last_delivered(KEYS[at], group) or '0-0'
end
if left then return {0, positions} end
return {due and math.max(0, due - now) or -1, positions}
"""
)

# KEYS: wake, taken, parked, main stream, and those that the arguments name by their places. ARGV: group, consumer,
# whether what is done is deleted, and what is given up; then for each settlement: what becomes of it (a, d, r or p),
# whether it was taken by its id, stream, id, whether the stream is this group's own, stream and queue to go back to,
# the same two of the group's own lane, delay, value. Answers 1 for each that was still ours.
SETTLE: Final = Script(
    TIME
    + GROUPS
    + WAKE
    + HOLDER
    + """
local group, me = ARGV[1], ARGV[2]
redis.call('HDEL', KEYS[2], '')

local function is_ours(taken, stream, id)
  if not taken then return holder(stream, group, id) == me end
  local record = redis.call('HGET', KEYS[2], id)
  return record and cmsgpack.unpack(record)[1] == me
end

local function put(at, outcome)
  local delay, value = tonumber(ARGV[at + 9]), ARGV[at + 10]
  if outcome == 'p' then
    redis.call('XADD', KEYS[3], '*', 'message', value)
    return
  end
  local own = groups(KEYS[4]) > 1 and 2 or 0
  local stream, queue = KEYS[tonumber(ARGV[at + 5 + own])], KEYS[tonumber(ARGV[at + 6 + own])]
  if delay <= 0 then
    redis.call('XADD', stream, '*', 'message', value)
    return
  end
  local due = math.min(now + delay, 253370764799999)
  local head = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  redis.call('ZADD', queue, due, value)
  if not head[2] or due < tonumber(head[2]) then wake(KEYS[1], due) end
end

local results = {}
for at = 5, #ARGV, 11 do
  local outcome, taken, id = ARGV[at], ARGV[at + 1] == '1', ARGV[at + 3]
  local stream, own = KEYS[tonumber(ARGV[at + 2])], ARGV[at + 4] == '1'
  if is_ours(taken, stream, id) then
    -- First stored, then removed: an error between the two leaves it where it was.
    if outcome == 'r' or outcome == 'p' then put(at, outcome) end
    if taken then
      redis.call('HDEL', KEYS[2], id)
    else
      redis.call('XACK', stream, group, id)
      local deletes = ARGV[outcome == 'd' and 4 or 3] == '1'
      if own or (deletes and groups(KEYS[4]) <= 1) then redis.call('XDEL', stream, id) end
    end
    results[#results + 1] = 1
  else
    results[#results + 1] = 0
  end
end
return results
"""
)

# KEYS: wake, taken, and the streams. ARGV: group, consumer; then for each claim: whether it was taken by its id,
# stream, id, and how often it counts as delivered.
GIVE_BACK: Final = Script(
    FREE
    + HOLDER
    + WAKE
    + """
local group, me, taken = ARGV[1], ARGV[2], KEYS[2]
redis.call('HDEL', taken, '')
"""
    + PUT_BACK
    + """
local given = 0
for at = 3, #ARGV, 4 do
  local stream, id = KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2]
  if ARGV[at] == '1' then
    local record = redis.call('HGET', taken, id)
    if record and cmsgpack.unpack(record)[1] == me then
      put_back(id)
      given = given + 1
    end
  elseif holder(stream, group, id) == me then
    -- Idle for a day, so that a PHP worker may have it as well.
    redis.call('XCLAIM', stream, group, free, 0, id, 'IDLE', 86400000, 'RETRYCOUNT', ARGV[at + 3], 'JUSTID')
    given = given + 1
  end
end
if given > 0 then wake(KEYS[1], 0) end
return given
"""
)
