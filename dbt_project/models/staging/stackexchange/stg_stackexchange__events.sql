{% set columns = [
    'Id', 'PostTypeId', 'ParentId', 'PostId', 'PostParentId', 'CreationDate', 'OwnerUserId', 'UserId', 'Title', 'Body',
    'Text'
] %}
with named as (
    {{ landed_fields('events', 'stackexchange', columns, names=[
        'id', 'post_type_id', 'parent_id', 'post_id', 'post_parent_id', 'creation_date', 'owner_user_id', 'user_id',
        'title', 'body', 'comment'
    ]) }}
),

-- Posts say what kind they are, comments whose post they stand under; rows without either are neither.
kinds as (
    select
        *,
        case
            when post_type_id = '1' then 'post'
            when post_type_id = '2' then 'answer'
            when post_type_id is null and post_id is not null then 'comment'
        end as event_type
    from named
)

select
    arrival_hour,
    source,
    file,
    row_number,
    coalesce(
        'stackexchange:' || case when event_type = 'comment' then 'comment:' else 'post:' end || id,
        'h:' || md5(raw)
    ) as event_key,
    case when event_type = 'comment' then user_id else owner_user_id end as user_id,
    -- What was answered or commented is the question in the end. A comment on an unknown post keeps the post's id.
    case event_type
        when 'post' then id
        when 'answer' then parent_id
        when 'comment' then coalesce(post_parent_id, post_id)
    end as item_id,
    event_type,
    {{ utc_time('creation_date') }} as event_ts,
    cast(null as double) as value,
    case event_type
        when 'comment' then {{ tidied(without_mentions('comment')) }}
        else {{ tidied("concat_ws(' ', title, body)") }}
    end as text,
    cast(null as varchar) as session_id,
    cast(null as varchar) as attributes,
    false as deleted,
    false as is_bare_withdrawal,
    raw,
    case
        when read_error is not null then read_error
        when event_type is null then 'not_a_contribution'
    end as reason
from kinds
